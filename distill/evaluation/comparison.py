"""Is one network really better than another, or were other people only kinder to it?

Both networks meet the same resampled people, so that what is hard for both cancels out of their difference: a
paired bootstrap. People, weights and held thresholds are those of `distill.evaluation.bootstrap`, and as
there intervals err on the wide side: a difference that is called real is seldom none, a small real one may
not be resolved.

Where nobody is known, folds stand in for people, by Tukey's jackknife: what a metric loses without a tenth of
the pairs tells what that tenth adds. Miller, "The Jackknife - A Review", Biometrika 1974,
https://doi.org/10.1093/biomet/61.1.1.

P: pairs, R: resamples, or folds where people are unknown, S: distinct similarities
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distill.evaluation.bootstrap import (
    Interval,
    bootstrap_pairs,
    percentile_interval,
    weighted_accuracy,
    weighted_tar_at_far,
)
from distill.evaluation.verification import (
    NUM_FOLDS,
    finest_far,
    ten_fold,
    verification_metrics,
)
from distill.faces import VerificationPairs

CONFIDENCE = 0.95
"""Of every interval where no other is asked for."""


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """A metric, or a difference of two, and what it would have been with other people.

    Attributes:
        value: On the pairs at hand.
        value_R: On every resample of people, or what each fold adds: of an accuracy the fold's own; float64.
        over: Where it is unknown who is on the images, nothing tells which pairs share a person: only folds
            are then independent.
    """

    value: float
    value_R: Tensor
    over: Literal["people", "folds"]

    def __sub__(self, other: "Resampled") -> "Resampled":
        """The difference of two networks' metrics, on the same people."""
        return Resampled(value=self.value - other.value, value_R=self.value_R - other.value_R, over=self.over)

    @property
    def interval(self) -> Interval:
        """`interval_of` 95 %."""
        return self.interval_of(CONFIDENCE)

    def interval_of(self, confidence: float) -> Interval:
        """Where that share of the resamples lies, as much left out on both sides; over folds, by Student's t.

        Raises:
            ValueError: If `confidence` is not in (0, 1).
        """
        if self.over == "people":
            return percentile_interval(self.value_R, confidence)
        margin = student_t(confidence) * self.value_R.std().item() / math.sqrt(NUM_FOLDS)
        return Interval(low=self.value - margin, high=self.value + margin)

    @property
    def is_real(self) -> bool:
        """Of a difference: whether its interval leaves out 0, as it seldom does where there is none."""
        return self.interval.low > 0 or self.interval.high < 0


def resampled_metrics(
    similarity_P: Tensor, pairs: VerificationPairs, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Resampled]:
    """The `verification_metrics` that people can be resampled for, by their name without a prefix.

    verification_accuracy, eer, auc, tar_at_far_1e-<k>, and each group's verification_accuracy and
    shared_threshold_accuracy. Thresholds of accuracies are held, the others' move with the people.

    Args:
        similarity_P: Cosine similarity of each pair, from `pair_similarity`.
        seed: The same one for networks that are compared: it decides which people they meet.

    Raises:
        ValueError: As `verification_metrics`.
    """
    metrics = verification_metrics(similarity_P, pairs, prefix="")
    weighted = _weighted_metrics(similarity_P, pairs)
    names = list(weighted(torch.ones(1, len(similarity_P), dtype=torch.float64)))

    def stacked(weight_RP: Tensor) -> Tensor:
        return torch.stack(list(weighted(weight_RP).values()), dim=1)

    over: Literal["people", "folds"] = "folds" if pairs.identity_N is None else "people"
    if over == "people":
        value_RM = bootstrap_pairs(stacked, pairs, resamples=resamples, seed=seed)
    else:
        value_RM = jackknife(stacked, fold_of_each(pairs.group_P))
    return {
        name: Resampled(value=metrics[f"/{name}"], value_R=value_R, over=over)
        for name, value_R in zip(names, value_RM.unbind(1), strict=True)
    }


def _weighted_metrics(
    similarity_P: Tensor, pairs: VerificationPairs
) -> Callable[[Tensor], dict[str, Tensor]]:
    """Maps weights of shape (R, P) to what every metric is with them, by name, each of shape (R,)."""
    is_genuine_P, distance_P = pairs.is_genuine_P, 2 * (1 - similarity_P)
    has_both = bool(is_genuine_P.any()) and not bool(is_genuine_P.all())
    k = finest_far(int((~is_genuine_P).sum())) if has_both else None
    is_right_P = ten_fold(distance_P, is_genuine_P).is_right
    groups = {group: pairs.group_P == index for index, group in enumerate(pairs.group_names)}
    own = {group: ten_fold(distance_P[of_P], is_genuine_P[of_P]).is_right for group, of_P in groups.items()}

    def weighted(weight_RP: Tensor) -> dict[str, Tensor]:
        found = {"verification_accuracy": weighted_accuracy(is_right_P, weight_RP)}
        if has_both:
            found["eer"], found["auc"] = weighted_eer_and_auc(similarity_P, is_genuine_P, weight_RP)
        if k is not None:
            tar_R = weighted_tar_at_far(similarity_P, is_genuine_P, weight_RP, far=10.0**-k)
            found[f"tar_at_far_1e-{k}"] = tar_R
        for group, of_P in groups.items():
            weight_RG = weight_RP[:, of_P]
            found[f"verification_accuracy_{group}"] = weighted_accuracy(own[group], weight_RG)
            found[f"shared_threshold_accuracy_{group}"] = weighted_accuracy(is_right_P[of_P], weight_RG)
        return found

    return weighted


def jackknife(statistic: Callable[[Tensor], Tensor], fold_P: Tensor) -> Tensor:
    """What each fold adds to a statistic: of a mean over folds of one size, the mean of the fold itself.

    Args:
        statistic: Maps weights of shape (F, P) to values of shape (F, ...).
        fold_P: The fold that each pair is in, int64, from `fold_of_each`.

    Returns:
        Pseudo-values of shape (F, ...).
    """
    fold_F1 = torch.arange(NUM_FOLDS)[:, None]
    without_FP = (fold_P != fold_F1).double()
    whole = statistic(torch.ones_like(without_FP[:1]))
    return NUM_FOLDS * whole - (NUM_FOLDS - 1) * statistic(without_FP)


def fold_of_each(group_P: Tensor) -> Tensor:
    """The contiguous tenth of its group's pairs that each pair is in: by the protocol nobody is in two."""
    fold_P = torch.empty_like(group_P)
    for group in group_P.unique().tolist():
        of_P = group_P == group
        size = int(of_P.sum())
        fold_P[of_P] = NUM_FOLDS * torch.arange(size) // size
    return fold_P


def student_t(confidence: float) -> float:
    """What nine degrees of freedom, those of ten folds, stay within in that share of all cases.

    Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, 26.7.3.

    Raises:
        ValueError: If `confidence` is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be a fraction in (0, 1), got {confidence}")

    def share_within(angle: float) -> float:
        sine, square = math.sin(angle), math.cos(angle) ** 2
        series = math.cos(angle) * (1 + square * (2 / 3 + square * (8 / 15 + square * 16 / 35)))
        return 2 / math.pi * (angle + sine * series)

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share_within(middle) < confidence else (low, middle)
    return math.sqrt(NUM_FOLDS - 1) * math.tan(low)


def weighted_eer_and_auc(
    similarity_P: Tensor, is_genuine_P: Tensor, weight_RP: Tensor
) -> tuple[Tensor, Tensor]:
    """`equal_error_rate` and `area_under_curve` of weighted pairs.

    Returns:
        Each of shape (R,); NaN where no genuine or no impostor pair has weight.
    """
    distinct_S, index_P = torch.unique(-similarity_P, return_inverse=True)  # most alike first
    kinds = (~is_genuine_P, is_genuine_P)
    counts = weight_RP.new_zeros(2, len(weight_RP), len(distinct_S) + 1)
    for count_RS, kind_P in zip(counts, kinds, strict=True):
        count_RS.index_add_(1, index_P[kind_P] + 1, weight_RP[:, kind_P])
    accepted = counts.cumsum(-1)
    far_RS, tar_RS = accepted / accepted[..., -1:]
    auc_R = torch.trapezoid(tar_RS, far_RS, dim=1)

    excess_RS = far_RS - (1 - tar_RS)  # rises from -1 to 1, as in `equal_error_rate`
    after_R1 = (excess_RS >= 0).int().argmax(1, keepdim=True).clamp(min=1)
    excess_R, before_R = excess_RS.gather(1, after_R1), excess_RS.gather(1, after_R1 - 1)
    share_R = before_R / (before_R - excess_R)
    eer_R = torch.lerp(far_RS.gather(1, after_R1 - 1), far_RS.gather(1, after_R1), share_R)[:, 0]
    return eer_R, auc_R
