"""Metrics as people read them: their names in words, their units, and few digits."""

import re
from dataclasses import dataclass

_PERCENT = re.compile(
    r"/(verification_accuracy|shared_threshold_accuracy|eer|tar_at_far)|/fairness/(\w+_mean|mean_minus_std)$"
)
_POINTS = re.compile(r"accuracy_std$|/fairness/\w+_threshold_std$")
_EFFICIENCY = {
    "efficiency/parameters": ("parameters", "millions", "M"),
    "efficiency/weight_bytes": ("size of the weights", "MB", "MB"),
    "efficiency/macs": ("multiply-adds a face", "millions", "M"),
    "efficiency/activation_bytes": ("activations of a face", "MB", "MB"),
}
_SPOKEN = {
    "eer": "EER",
    "auc": "AUC",
    "tar": "TAR",
    "far": "FAR",
    "std": "STD",
    "ser": "SER",
    "fdr": "FDR",
    "ir": "IR",
    "garbe": "GARBE",
    "mse": "MSE",
}


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """How a metric is shown.

    Attributes:
        name: In words.
        unit: After its name, on an axis; empty where it has none.
        sign: After a value of it.
        factor: What values are multiplied with to be in this unit.
    """

    name: str
    unit: str = ""
    sign: str = ""
    factor: float = 1.0

    @property
    def label(self) -> str:
        """For an axis."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def text(self, value: float) -> str:
        """A value in few digits, with its unit."""
        scaled = value * self.factor
        digits = f"{scaled:.2f}" if 0.1 <= abs(scaled) < 1000 or scaled == 0 else f"{scaled:.4g}"
        return f"{digits} {self.sign}".strip()


def quantity(metric: str) -> Quantity:
    """How a metric of this name is shown."""
    if metric in _EFFICIENCY:
        name, unit, sign = _EFFICIENCY[metric]
        return Quantity(name=name, unit=unit, sign=sign, factor=1e-6)
    words = " ".join(_SPOKEN.get(word, word) for word in re.split(r"[/_]", metric))
    if _POINTS.search(metric):
        return Quantity(name=words, unit="points", sign="points", factor=100.0)
    if _PERCENT.search(metric):
        return Quantity(name=words, unit="%", sign="%", factor=100.0)
    return Quantity(name=words)


def counted(number: int, noun: str) -> str:
    """A number and its noun: `1 trial`, `3 trials`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(words: list[str]) -> str:
    """Words as a sentence lists them: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
