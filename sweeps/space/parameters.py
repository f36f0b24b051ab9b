"""The kinds of parameters that a search space may have, and what Optuna is asked for each."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeGuard

import optuna
from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from distill.settings import Settings
from sweeps.space.problems import shown

Scalar = str | int | float | bool
"""A value of a categorical parameter: what Optuna stores, what MLflow logs and what YAML can say."""


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number to the user, to whom true is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class Parameter(Settings, ABC):
    """A setting that differs from trial to trial."""

    when: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict)
    """Categorical parameters, declared before this one or fixed in base, and the values of theirs for which
    this one exists. Empty: it always does."""

    @field_validator("when", mode="before")
    @classmethod
    def _one_value_is_a_list_of_one(cls, when: Any) -> Any:
        if not isinstance(when, Mapping):
            return when
        return {
            name: tuple(values) if isinstance(values, list) else (values,) for name, values in when.items()
        }

    @property
    def is_drawn(self) -> bool:
        """Whether there is anything to ask Optuna for."""
        return True

    @property
    def is_number(self) -> bool:
        """Whether every value is one."""
        return all(is_number(value) for value in self.ends())

    @abstractmethod
    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Any:
        """Asks Optuna for a value."""

    @abstractmethod
    def claim_against(self, value: Scalar) -> str | None:
        """What is wrong with a value as one to be tried: `must be a number, got 'a'`. None: nothing is."""

    @abstractmethod
    def ends(self) -> tuple[Scalar, ...]:
        """Both ends of a range, or every choice."""

    @abstractmethod
    def grid(self) -> tuple[Scalar, ...] | range | None:
        """Every value; None when there is no end of them."""


class RangeParameter(Parameter, ABC):
    """A number in [low, high]."""

    ratio_of: str | None = None
    """A number, declared before this one or fixed in base. Drawn is how many times it the setting is; the
    product is rounded where the setting is a whole number. Where low and high are equal, nothing is drawn."""

    @field_validator("high", check_fields=False)
    @classmethod
    def _high_is_above_low(cls, high: float, info: ValidationInfo) -> float:
        low = info.data.get("low")
        is_ratio = info.data.get("ratio_of", "unread") is not None
        if low is not None and (high < low or (high == low and not is_ratio)):
            raise ValueError(f"must be {'at least' if is_ratio else 'above'} low ({low}), got {high}")
        return high

    @field_validator("log", check_fields=False)
    @classmethod
    def _log_needs_positive_numbers(cls, log: bool, info: ValidationInfo) -> bool:
        low = info.data.get("low")
        if log and low is not None and low <= 0:
            raise ValueError(f"needs low above 0, got {low}")
        return log

    @field_validator("step", check_fields=False)
    @classmethod
    def _steps_lead_from_low_to_high(cls, step: float | None, info: ValidationInfo) -> float | None:
        if step == cls.model_fields["step"].default or step is None:
            return step
        if info.data.get("log"):
            raise ValueError(f"cannot be combined with log, got {step}")
        if {"low", "high"} <= info.data.keys():
            num_steps = (info.data["high"] - info.data["low"]) / step
            if abs(num_steps - round(num_steps)) > 1e-6:
                raise ValueError(f"must lead from low to high in whole steps, got {step}")
        return step

    @property
    def is_drawn(self) -> bool:
        low, high = self.ends()
        return low < high

    @abstractmethod
    def ends(self) -> tuple[float, float]:
        """Both ends of the range."""

    def claim_against(self, value: Scalar) -> str | None:
        (low, high), grid = self.ends(), self.grid()
        is_whole = isinstance(low, int)
        if not is_number(value) or (is_whole and not isinstance(value, int)):
            return f"must be a {'whole ' if is_whole else ''}number, got {shown(value)}"
        if not low <= float(value) <= high:
            return f"must be from {low} to {high}, got {shown(value)}"
        if grid is not None and value not in grid:
            return f"must be whole steps above low ({low}), got {shown(value)}"
        return None


class FloatParameter(RangeParameter):
    """A real number."""

    type: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False
    """Whether each octave is as likely as the next, rather than each unit."""
    step: PositiveFloat | None = None
    """Distance between neighbouring values. Unset: any value may be drawn."""

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)

    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def grid(self) -> tuple[float, ...] | None:
        if self.step is None:
            return None
        num_steps = round((self.high - self.low) / self.step)
        return tuple(round(self.low + index * self.step, 12) for index in range(num_steps + 1))


class IntParameter(RangeParameter):
    """A whole number."""

    type: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False
    """Whether each octave is as likely as the next, rather than each unit."""
    step: PositiveInt = 1
    """Distance between neighbouring values."""

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step)

    def ends(self) -> tuple[int, int]:
        return self.low, self.high

    def grid(self) -> range:
        return range(self.low, self.high + 1, self.step)


class CategoricalParameter(Parameter):
    """One of several values that have no order."""

    type: Literal["categorical"] = "categorical"
    choices: tuple[Scalar, ...] = Field(min_length=1)
    """The values, each once."""

    @field_validator("choices")
    @classmethod
    def _choices_differ(cls, choices: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        for index, choice in enumerate(choices):
            if choice in choices[:index]:
                raise ValueError(f"must name each choice once, got {choice!r} twice")
        return choices

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Any:
        return trial.suggest_categorical(name, self.choices)

    def claim_against(self, value: Scalar) -> str | None:
        # In Python, true is 1.
        if any(value == choice and is_number(value) == is_number(choice) for choice in self.choices):
            return None
        return f"must be among its choices ({', '.join(map(str, self.choices))}), got {shown(value)}"

    def ends(self) -> tuple[Scalar, ...]:
        return self.choices

    def grid(self) -> tuple[Scalar, ...]:
        return self.choices


AnyParameter = Annotated[FloatParameter | IntParameter | CategoricalParameter, Field(discriminator="type")]
