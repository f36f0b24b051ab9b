"""How far a metric of verification pairs would move if other people had been photographed.

Pairs that share a person are not independent, so people are drawn with replacement, not pairs. A pair of two
people weighs the product of how often each was drawn, a pair of one person how often he was. Owen and Eckles,
"Bootstrapping data arrays of arbitrary order", Annals of Applied Statistics, 2012,
https://arxiv.org/abs/1106.2125. Such intervals err on the wide side: what is peculiar to a single pair of two
people, rather than to either of them, counts up to three times in the variance. Fogliato et al., "Confidence
Intervals for Error Rates in 1:1 Matching Tasks", IJCV 2024, https://arxiv.org/abs/2306.01198.

People are drawn within strata, in practice demographic groups: how many of each group are photographed is
decided by the protocol, not by chance. Folds are no strata. Decisions and thresholds stay as they are.

P: pairs, I: identities, R: resamples, S: strata
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.evaluation.verification import tar_at_far, ten_fold
from distill.faces import VerificationPairs

WEIGHTS_AT_ONCE = 250_000
"""Entries of the weights, resamples times pairs, that are made at a time: few enough for a core's cache."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where a statistic lies, in the statistic's unit."""

    low: float
    high: float


def identity_weights(
    left_P: Tensor, right_P: Tensor, *, resamples: int, seed: int, stratum_P: Tensor | None = None
) -> Tensor:
    """Weights of all pairs in every resample.

    Args:
        left_P, right_P: Who is on the two images of each pair, int64; the same person where it is genuine.
        resamples: How often people are drawn anew; each time as many as there are, in every stratum.
        seed: The same seed gives the same weights: use it twice to compare two models on the same resamples.
        stratum_P: Within what the two people of each pair are drawn, int64; by default all are one stratum.

    Returns:
        Whole numbers from 0 as float64, of shape (R, P).

    Raises:
        ValueError: If there is no resample or no pair, or a person is in two strata.
    """
    return torch.cat(list(_weight_chunks(left_P, right_P, stratum_P, resamples=resamples, seed=seed)))


def bootstrap(
    statistic: Callable[[Tensor], Tensor],
    left_P: Tensor,
    right_P: Tensor,
    *,
    resamples: int,
    seed: int,
    stratum_P: Tensor | None = None,
) -> Tensor:
    """Computes a statistic on every resample of `identity_weights`, holding few of them in memory.

    Args:
        statistic: Maps weights of shape (r, P) to values of shape (r, ...), for any number r of resamples.
            One that subtracts one model's value from another's compares the two on the same people.

    Returns:
        Values of shape (R, ...).
    """
    chunks = _weight_chunks(left_P, right_P, stratum_P, resamples=resamples, seed=seed)
    return torch.cat([statistic(weight_RP) for weight_RP in chunks])


def bootstrap_pairs(
    statistic: Callable[[Tensor], Tensor], pairs: VerificationPairs, *, resamples: int, seed: int
) -> Tensor:
    """`bootstrap` over the people of `pairs`, each drawn within his demographic group.

    Raises:
        InputError: If it is unknown who is on the images.
    """
    identity_N = pairs.people()
    return bootstrap(
        statistic,
        identity_N[pairs.left_P],
        identity_N[pairs.right_P],
        stratum_P=pairs.group_P,
        resamples=resamples,
        seed=seed,
    )


def accuracy_interval(
    similarity_P: Tensor, pairs: VerificationPairs, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """The 95 % interval of the ten-fold accuracy, thresholds held.

    Over people where it is known who is on the images; else, since pairs that share a person are not
    independent and nothing tells which do, 1.96 standard errors over the ten folds.

    Args:
        similarity_P: Cosine similarity of each pair, from `pair_similarity`.
    """
    folds = ten_fold(2 * (1 - similarity_P), pairs.is_genuine_P)
    if pairs.identity_N is None:
        margin = 1.96 * folds.accuracies.std().item() / len(folds.accuracies) ** 0.5
        return Interval(low=max(0.0, folds.accuracy - margin), high=min(1.0, folds.accuracy + margin))
    accuracy_R = bootstrap_pairs(
        lambda weight_RP: weighted_accuracy(folds.is_right, weight_RP), pairs, resamples=resamples, seed=seed
    )
    return percentile_interval(accuracy_R)


def _weight_chunks(
    left_P: Tensor, right_P: Tensor, stratum_P: Tensor | None, *, resamples: int, seed: int
) -> Iterator[Tensor]:
    if resamples < 1 or len(left_P) == 0:
        raise ValueError(
            f"a bootstrap needs a resample and a pair, got resamples={resamples} and {len(left_P)} pairs"
        )
    identity_I, index_2P = torch.unique(torch.stack([left_P, right_P]), return_inverse=True)
    stratum_I = _stratum_of_each(identity_I, index_2P, stratum_P)
    left_P, right_P = index_2P
    is_genuine_P = left_P == right_P
    rng = torch.Generator().manual_seed(seed)
    # Of a pair of one person the second factor is 1, which lies behind all identities.
    second_P = torch.where(is_genuine_P, len(identity_I), right_P)
    for start in range(0, resamples, step := max(1, WEIGHTS_AT_ONCE // len(left_P))):
        multiplicity_RI = _draw(stratum_I, min(step, resamples - start), rng)
        # Rows of all resamples are copied whole: to pick columns would cost several times as much.
        multiplicity_IR = F.pad(multiplicity_RI, (0, 1), value=1.0).T.contiguous()
        yield (multiplicity_IR[left_P] * multiplicity_IR[second_P]).T


def _stratum_of_each(identity_I: Tensor, index_2P: Tensor, stratum_P: Tensor | None) -> Tensor:
    stratum_I = torch.zeros_like(identity_I)
    if stratum_P is None:
        return stratum_I
    stratum_I[index_2P] = stratum_P.expand(2, -1)
    is_elsewhere_2P = stratum_I[index_2P] != stratum_P
    if is_elsewhere_2P.any():
        person = identity_I[index_2P[is_elsewhere_2P][0]].item()
        raise ValueError(f"each person must be in one stratum, person {person} is in two")
    return stratum_I


def _draw(stratum_I: Tensor, resamples: int, rng: torch.Generator) -> Tensor:
    """How often each identity is drawn from its stratum, as float64 of shape (R, I)."""
    # Identities that are sorted by stratum lie in one run each: a draw is a position in one's own run.
    order_I = stratum_I.argsort(stable=True)
    size_S = torch.unique(stratum_I, return_counts=True)[1]
    size_I = size_S.repeat_interleave(size_S)
    start_I = (size_S.cumsum(0) - size_S).repeat_interleave(size_S)
    draw_RI = torch.rand(resamples, len(stratum_I), generator=rng, dtype=torch.float64)
    drawn_RI = order_I[start_I + (draw_RI * size_I).long()]
    return torch.zeros_like(draw_RI).scatter_add_(1, drawn_RI, torch.ones_like(draw_RI))


def weighted_accuracy(is_right_P: Tensor, weight_RP: Tensor) -> Tensor:
    """Weighted share of the pairs that are judged rightly, of shape (R,); NaN where no pair has weight."""
    return (weight_RP @ is_right_P.to(weight_RP)) / weight_RP.sum(1)


def weighted_tar_at_far(
    similarity_P: Tensor, is_genuine_P: Tensor, weight_RP: Tensor, *, far: float
) -> Tensor:
    """`tar_at_far` of weighted pairs, each resample at a threshold of its own.

    Returns:
        True accept rates of shape (R,); NaN where no genuine or no impostor pair has weight.

    Raises:
        ValueError: If `tar_at_far` refuses the pairs without weights.
    """
    tar_at_far(similarity_P, is_genuine_P, far=far)
    impostor, impostor_order = similarity_P[~is_genuine_P].sort(descending=True)
    genuine, genuine_order = similarity_P[is_genuine_P].sort(descending=True)
    accepted_impostors_R = weight_RP[:, ~is_genuine_P][:, impostor_order].cumsum(1)
    accepted_genuine_R = weight_RP[:, is_genuine_P][:, genuine_order].cumsum(1)

    allowed_R1 = far * accepted_impostors_R[:, -1:] + 1e-9
    first_refused_R = (accepted_impostors_R <= allowed_R1).sum(1).clamp(max=len(impostor) - 1)
    threshold_R = impostor[first_refused_R]
    num_above_R = torch.searchsorted(-genuine, -threshold_R, right=False)
    weight_above_R = F.pad(accepted_genuine_R, (1, 0)).gather(1, num_above_R[:, None])
    has_impostors_R = accepted_impostors_R[:, -1] > 0
    tar_R = weight_above_R[:, 0] / accepted_genuine_R[:, -1]
    return torch.where(has_impostors_R, tar_R, torch.nan)


def percentile_interval(value_R: Tensor, level: float = 0.95) -> Interval:
    """The interval that leaves out equal shares of the resampled values on both sides.

    Values that are NaN, of resamples without a pair that counts, are passed over.

    Args:
        value_R: A statistic on every resample, of shape (R,).
        level: Share of the values inside, in (0, 1).

    Raises:
        ValueError: If `level` is not in (0, 1), or every value is NaN.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be a fraction in (0, 1), got {level}")
    known = value_R[~value_R.isnan()].double()
    if len(known) == 0:
        raise ValueError(f"an interval needs a value that is a number, got none in {len(value_R)}")
    tail = (1 - level) / 2
    low, high = torch.quantile(known, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(low=low, high=high)
