"""Is one student better than another, or was it luck with the people of the benchmark?

Both see the same pairs, and both are judged on the same resampled people, so that what is hard for either
cancels out. See `distill.evaluation.bootstrap`.

P: pairs, R: resamples
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.evaluation import (
    Interval,
    bootstrap,
    bootstrap_pairs,
    percentile_interval,
    ten_fold,
    weighted_accuracy,
    weighted_tar_at_far,
)
from distill.faces import VerificationPairs
from distill.faces.pairs import NUM_FOLDS

RESAMPLES = 2000
_TAR = "tar_at_far_"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a metric of one student lies above that of another.

    Attributes:
        interval: Where it lies over resamples.
        over: What was resampled.
    """

    interval: Interval
    over: str


def difference(
    metric: str,
    first_P: Tensor,
    second_P: Tensor,
    pairs: VerificationPairs,
    *,
    confidence: float,
    seed: int = 0,
) -> Difference:
    """Compares two students by the paired bootstrap, with decisions and folds as they are.

    Where nothing tells who is on the images, the ten folds of each group are drawn instead of people: by the
    protocol nobody is in two of them.

    Args:
        metric: A verification accuracy of all pairs or of one group (`verification_accuracy_<group>`,
            `shared_threshold_accuracy_<group>`), or `tar_at_far_<far>`; without a prefix.
        first_P, second_P: Cosine similarity that each gives to each pair, from `pair_similarity`.
        confidence: Share of the resampled differences inside the interval.
    """
    first, second = (statistic(metric, similarity_P, pairs) for similarity_P in (first_P, second_P))

    def apart(weight_RP: Tensor) -> Tensor:
        return first(weight_RP) - second(weight_RP)

    if pairs.identity_N is not None:
        apart_R = bootstrap_pairs(apart, pairs, resamples=RESAMPLES, seed=seed)
    else:
        fold_P = _fold_of_each(pairs)
        apart_R = bootstrap(apart, fold_P, fold_P, stratum_P=pairs.group_P, resamples=RESAMPLES, seed=seed)
    return Difference(
        interval=percentile_interval(apart_R, confidence),
        over="people" if pairs.identity_N is not None else "folds",
    )


def statistic(metric: str, similarity_P: Tensor, pairs: VerificationPairs) -> Callable[[Tensor], Tensor]:
    """A metric of weighted pairs: maps weights of shape (R, P) to values of shape (R,).

    Raises:
        ValueError: If the metric is none of those that can be resampled.
    """
    if metric.startswith(_TAR):
        far = float(metric.removeprefix(_TAR))
        return lambda weight_RP: weighted_tar_at_far(similarity_P, pairs.is_genuine_P, weight_RP, far=far)
    distance_P = 2 * (1 - similarity_P)
    if metric == "verification_accuracy":
        is_right_P = ten_fold(distance_P, pairs.is_genuine_P).is_right
        return lambda weight_RP: weighted_accuracy(is_right_P, weight_RP)
    for index, group in enumerate(pairs.group_names):
        in_group_P = pairs.group_P == index
        if metric == f"shared_threshold_accuracy_{group}":
            is_right_P = ten_fold(distance_P, pairs.is_genuine_P).is_right[in_group_P]
        elif metric == f"verification_accuracy_{group}":
            is_right_P = ten_fold(distance_P[in_group_P], pairs.is_genuine_P[in_group_P]).is_right
        else:
            continue
        return lambda weight_RP: weighted_accuracy(is_right_P, weight_RP[:, in_group_P])
    raise ValueError(f"metric must be an accuracy or a TAR of the pairs, got {metric!r}")


def _fold_of_each(pairs: VerificationPairs) -> Tensor:
    """The contiguous tenth of its group's pairs that each pair is in, numbered through all groups."""
    fold_P = torch.empty_like(pairs.group_P)
    for group in pairs.group_P.unique().tolist():
        in_group_P = pairs.group_P == group
        size = int(in_group_P.sum())
        fold_P[in_group_P] = NUM_FOLDS * group + NUM_FOLDS * torch.arange(size) // size
    return fold_P
