"""Is one network really better than another, or were other people only kinder to it?

Both networks meet the same resampled people, so that what is hard for both cancels out of their difference: a
paired bootstrap. People, weights and held thresholds are those of `distill.evaluation.bootstrap`, and as
there intervals err on the wide side: a difference that is called real is seldom none, a small real one may
not be resolved.

P: pairs, R: resamples, or folds where people are unknown, S: distinct similarities
"""

import math
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
"""Of every interval."""
STUDENT_T = 2.262
"""What nine degrees of freedom, those of ten folds, exceed in 2.5 % of all cases."""


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """A metric, or a difference of two, and what it would have been with other people.

    Attributes:
        value: On the pairs at hand.
        value_R: On every resample of people, or on every fold, float64.
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
        """Where 95 % of the resamples lie; over folds, 95 % by Student's t."""
        if self.over == "people":
            return percentile_interval(self.value_R, CONFIDENCE)
        margin = STUDENT_T * self.value_R.std().item() / math.sqrt(NUM_FOLDS)
        return Interval(low=self.value - margin, high=self.value + margin)

    @property
    def is_real(self) -> bool:
        """Of a difference: whether its interval leaves out 0, as it seldom does where there is none."""
        return not self.interval.low <= 0 <= self.interval.high


def resampled_metrics(
    similarity_P: Tensor, pairs: VerificationPairs, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Resampled]:
    """The `verification_metrics` that people can be resampled for, by their name without a prefix.

    verification_accuracy, and where it is known who is on the images eer, auc, tar_at_far_1e-<k> and each
    group's shared_threshold_accuracy. Thresholds of accuracies are held, the others' move with the people.

    Args:
        similarity_P: Cosine similarity of each pair, from `pair_similarity`.
        seed: The same one for networks that are compared: it decides which people they meet.

    Raises:
        ValueError: As `verification_metrics`.
    """
    is_genuine_P = pairs.is_genuine_P
    folds = ten_fold(2 * (1 - similarity_P), is_genuine_P)
    if pairs.identity_N is None:
        accuracy = Resampled(value=folds.accuracy, value_R=folds.accuracies, over="folds")
        return {"verification_accuracy": accuracy}

    has_both = bool(is_genuine_P.any()) and not bool(is_genuine_P.all())
    k = finest_far(int((~is_genuine_P).sum())) if has_both else None

    def of_people(weight_RP: Tensor) -> Tensor:
        columns = [weighted_accuracy(folds.is_right, weight_RP)]
        if has_both:
            columns += weighted_eer_and_auc(similarity_P, is_genuine_P, weight_RP)
        if k is not None:
            columns.append(weighted_tar_at_far(similarity_P, is_genuine_P, weight_RP, far=10.0**-k))
        for group in range(len(pairs.group_names)):
            in_group_P = pairs.group_P == group
            columns.append(weighted_accuracy(folds.is_right[in_group_P], weight_RP[:, in_group_P]))
        return torch.stack(columns, dim=1)

    names = ["verification_accuracy"] + ["eer", "auc"] * has_both
    names += [] if k is None else [f"tar_at_far_1e-{k}"]
    names += [f"shared_threshold_accuracy_{group}" for group in pairs.group_names]
    metrics = verification_metrics(similarity_P, pairs, prefix="")
    columns = bootstrap_pairs(of_people, pairs, resamples=resamples, seed=seed).unbind(1)
    return {
        name: Resampled(value=metrics[f"/{name}"], value_R=value_R, over="people")
        for name, value_R in zip(names, columns, strict=True)
    }


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
