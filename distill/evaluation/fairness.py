"""Does a network serve every demographic group equally well?

Groups are compared twice. At its own thresholds, found by `ten_fold` on its own pairs, each group shows what
papers on RFW report: Wang and Deng, "Mitigating Bias in Face Recognition Using Skewness-Aware Reinforcement
Learning", CVPR 2020, https://arxiv.org/abs/1911.10692. At thresholds that are the same for everybody it shows
what a deployed system does to it, which is seldom as even.

Even a perfectly fair network shows unequal groups, as each has finitely many pairs; SER most of all, and the
more so the fewer errors there are. Read a spread next to its `noise_floor`, and two networks by
`compare_fairness`.

P: pairs, G: groups, R: resamples or simulations, M: the three numbers of a spread: mean, STD, SER
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import InputError
from distill.evaluation.bootstrap import Interval, bootstrap_pairs, percentile_interval
from distill.evaluation.verification import MIN_FALSE_ACCEPTS, roc, tar_at_far, ten_fold
from distill.faces import VerificationPairs

ALPHA = 0.5
"""Weight of false matches against false non-matches in FDR, IR and GARBE."""
FAR = 1e-2
"""Pooled false accept rate that sets the threshold at which the groups' error rates are compared."""


@dataclass(frozen=True, kw_only=True)
class ErrorCount:
    """Errors among the pairs that could have given one."""

    errors: int
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic of the pairs at hand, and its interval of 95% over `bootstrap` resamples."""

    value: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class AccuracyFairness:
    """How verification accuracy differs between groups.

    Attributes:
        errors: Wrongly judged pairs among all pairs, by group.
        mean: Mean of the groups' accuracies, a fraction.
        std: Population standard deviation of the groups' accuracies, a fraction.
        ser: `skewed_error_ratio`.
    """

    errors: dict[str, ErrorCount]
    mean: Estimate
    std: Estimate
    ser: Estimate


@dataclass(frozen=True, kw_only=True)
class ErrorRateFairness:
    """How false match and false non-match rates differ between groups at one threshold.

    Attributes:
        threshold: Similarity strictly above which a pair is accepted.
        false_matches: Accepted pairs among the impostor pairs, by group.
        false_non_matches: Refused pairs among the genuine pairs, by group.
        fdr: `fairness_discrepancy_rate`.
        ir: `inequity_rate`.
        garbe: `garbe`.
    """

    threshold: float
    false_matches: dict[str, ErrorCount]
    false_non_matches: dict[str, ErrorCount]
    fdr: float
    ir: float
    garbe: float


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """What a perfectly fair network shows by chance: means and 95th percentiles over simulations."""

    std: float
    std_p95: float
    ser: float
    ser_p95: float


@dataclass(frozen=True, kw_only=True)
class FairnessReport:
    """All that the pairs tell of fairness. `dataclasses.asdict` makes it ready for JSON.

    Attributes:
        own_threshold: Each group at thresholds that suit itself.
        shared_threshold: All groups at thresholds that suit all pairs together.
        at_far: Error rates at the lowest threshold whose pooled FMR is at most a given one; None where that
            would allow fewer than ten false accepts.
        at_eer: Error rates at the threshold where pooled FMR and FNMR are closest.
        noise_floor: Of a network as accurate as this one is at the shared threshold.
    """

    own_threshold: AccuracyFairness
    shared_threshold: AccuracyFairness
    at_far: ErrorRateFairness | None
    at_eer: ErrorRateFairness
    noise_floor: NoiseFloor


@dataclass(frozen=True, kw_only=True)
class FairnessComparison:
    """Differences of two networks on the same pairs, the first minus the second.

    An interval that excludes 0 is a difference that other people would hardly undo. `mean` above 0 speaks for
    the first network, `std` below 0 too.
    """

    own_threshold_mean: Estimate
    own_threshold_std: Estimate
    shared_threshold_mean: Estimate
    shared_threshold_std: Estimate


def floored(rate_G: Tensor, pairs_G: Tensor) -> Tensor:
    """Error rates with 3 / n in the place of 0: the largest that n pairs without an error make plausible.

    Only zeros change, so ratios of groups that all have errors are those of the literature. Hanley and
    Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 1983.
    https://doi.org/10.1001/jama.1983.03330370053031
    """
    return torch.where(rate_G > 0, rate_G, (3 / pairs_G).clamp(max=1))


def skewed_error_ratio(error_G: Tensor, pairs_G: Tensor) -> Tensor:
    """Largest over smallest error rate of the groups, `floored`; 1 is fair. SER of Wang and Deng, 2020.

    Args:
        error_G: Error rates, fractions, of shape (..., G).
        pairs_G: Pairs that they were measured on, of shape (G,).

    Returns:
        Ratios from 1, of shape (...).
    """
    error_G = floored(error_G, pairs_G)
    return error_G.amax(-1) / error_G.amin(-1)


def fairness_discrepancy_rate(fmr_G: Tensor, fnmr_G: Tensor, *, alpha: float = ALPHA) -> float:
    """One minus the largest differences of two groups in FMR and in FNMR, weighted; in [0, 1], 1 is fair.

    De Freitas Pereira and Marcel, "Fairness in Biometrics", IEEE T-BIOM 2022.
    https://arxiv.org/abs/2011.02395
    """
    apart = alpha * (fmr_G.max() - fmr_G.min()) + (1 - alpha) * (fnmr_G.max() - fnmr_G.min())
    return 1 - apart.item()


def inequity_rate(
    fmr_G: Tensor, fnmr_G: Tensor, *, impostors_G: Tensor, genuine_G: Tensor, alpha: float = ALPHA
) -> float:
    """Largest over smallest FMR and FNMR of the groups, `floored`, as weighted geometric mean; 1 is fair.

    Grother, "Face Recognition Vendor Test Part 8: Summarizing Demographic Differentials", NISTIR 8429, 2022.
    https://doi.org/10.6028/NIST.IR.8429.ipd

    Args:
        impostors_G, genuine_G: Pairs that FMR and FNMR were measured on.
    """
    fmr_ratio = skewed_error_ratio(fmr_G, impostors_G).item()
    fnmr_ratio = skewed_error_ratio(fnmr_G, genuine_G).item()
    return fmr_ratio**alpha * fnmr_ratio ** (1 - alpha)


def gini(rate_G: Tensor) -> float:
    """Gini coefficient of two or more groups' rates, made to span [0, 1] for any number of groups.

    0 where all are equal, all zero included; 1 where one group bears all.
    """
    mean, count = rate_G.mean().item(), len(rate_G)
    if mean == 0:
        return 0.0
    apart = (rate_G[:, None] - rate_G).abs().sum().item()
    return count / (count - 1) * apart / (2 * count**2 * mean)


def garbe(fmr_G: Tensor, fnmr_G: Tensor, *, alpha: float = ALPHA) -> float:
    """Gini aggregation rate for biometric equitability: `gini` of FMR and of FNMR, weighted; 0 is fair.

    Howard et al., "Evaluating Proposed Fairness Models for Face Recognition Algorithms", ICPR workshops 2022.
    https://arxiv.org/abs/2203.05051
    """
    return alpha * gini(fmr_G) + (1 - alpha) * gini(fnmr_G)


def noise_floor(
    num_pairs_per_group: int, accuracy: float, *, num_groups: int, simulations: int = 2000, seed: int = 0
) -> NoiseFloor:
    """STD and SER of a network that has the same true accuracy in every group.

    Pairs are taken as independent. Those that share people say less than as many that do not, so the floor of
    a real set of pairs is somewhat higher.

    Args:
        num_pairs_per_group: Pairs that the accuracy of each group is measured on.
        accuracy: True share of pairs that are judged rightly, in [0, 1].

    Raises:
        ValueError: If an argument is out of range.
    """
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy must be a fraction in [0, 1], got {accuracy}")
    if num_pairs_per_group < 1 or num_groups < 2 or simulations < 1:
        raise ValueError(
            "a noise floor needs a pair per group, two groups and a simulation, got "
            f"num_pairs_per_group={num_pairs_per_group}, num_groups={num_groups}, simulations={simulations}"
        )
    pairs_RG = torch.full((simulations, num_groups), float(num_pairs_per_group), dtype=torch.float64)
    rng = torch.Generator().manual_seed(seed)
    right_RG = torch.binomial(pairs_RG, torch.full_like(pairs_RG, accuracy), generator=rng)
    _, std_R, ser_R = _spread(right_RG / pairs_RG, pairs_RG[0]).unbind(-1)
    return NoiseFloor(
        std=std_R.mean().item(),
        std_p95=std_R.quantile(0.95).item(),
        ser=ser_R.mean().item(),
        ser_p95=ser_R.quantile(0.95).item(),
    )


def evaluate_fairness(similarity_P: Tensor, pairs: VerificationPairs, *, prefix: str) -> dict[str, float]:
    """Measures in milliseconds how evenly the groups of `pairs` are served.

    Args:
        similarity_P: Cosine similarity of each pair, from `pair_similarity`.
        prefix: What the pairs stand for, such as `validation`.

    Returns:
        Numbers by name, each under `<prefix>/fairness/`; accuracies are fractions:

        own_threshold_mean, own_threshold_std, own_threshold_ser: Mean, population standard deviation and
            `skewed_error_ratio` of the groups' accuracies, each group at its own thresholds.
        shared_threshold_mean, shared_threshold_std, shared_threshold_ser: The same at the thresholds of all
            pairs.
        mean_minus_std: shared_threshold_mean - shared_threshold_std, which trades accuracy against fairness
            as in Melzi et al., "FRCSyn Challenge at WACV 2024", https://arxiv.org/abs/2311.10476.
        fdr, ir, garbe: `fairness_discrepancy_rate`, `inequity_rate`, `garbe` at the threshold of a pooled FAR
            of 1e-2; absent below 1,000 impostors.

    Raises:
        ValueError: If there are fewer than two groups, or a group has fewer than ten pairs, no genuine or no
            impostor pair.
    """
    _check(similarity_P, pairs)
    member_PG = _members(pairs)
    metrics: dict[str, float] = {}
    decisions = _decisions(similarity_P, pairs)
    accuracies = _group_accuracies(list(decisions.values()), member_PG)
    for name, (accuracy_G,) in zip(decisions, accuracies, strict=True):
        mean, std, ser = _spread(accuracy_G, member_PG.sum(0)).tolist()
        metrics |= {f"{name}_mean": mean, f"{name}_std": std, f"{name}_ser": ser}
    metrics["mean_minus_std"] = metrics["shared_threshold_mean"] - metrics["shared_threshold_std"]
    if (rates := _at_far(similarity_P, pairs, far=FAR)) is not None:
        metrics |= {"fdr": rates.fdr, "ir": rates.ir, "garbe": rates.garbe}
    return {f"{prefix}/fairness/{name}": value for name, value in metrics.items()}


def fairness_report(
    similarity_P: Tensor, pairs: VerificationPairs, *, far: float = FAR, resamples: int = 1000, seed: int = 0
) -> FairnessReport:
    """Measures how evenly the groups are served, with counts, intervals and what chance would give.

    Intervals are over people of each group, with all thresholds as they are. Those of STD and SER lie too
    high, since resampling adds noise of its own: judge these two by `noise_floor` and `compare_fairness`.

    Args:
        similarity_P: Cosine similarity of each pair, from `pair_similarity`.
        far: Pooled false accept rate, a fraction, that sets the threshold of `at_far`.
        resamples: How often people are drawn anew for the intervals.

    Raises:
        ValueError: As in `evaluate_fairness`, or if an argument is out of range.
    """
    _check(similarity_P, pairs)
    own, shared = _accuracy_fairness(
        list(_decisions(similarity_P, pairs).values()), pairs, resamples=resamples, seed=seed
    )
    # The mean variance of the groups' accuracies is that of groups of the harmonic mean's size.
    pairs_G = _members(pairs).sum(0)
    num_pairs_per_group = round(1 / (1 / pairs_G).mean().item())
    return FairnessReport(
        own_threshold=own,
        shared_threshold=shared,
        at_far=_at_far(similarity_P, pairs, far=far),
        at_eer=_error_rate_fairness(similarity_P, pairs, _eer_threshold(similarity_P, pairs.is_genuine_P)),
        noise_floor=noise_floor(
            num_pairs_per_group, shared.mean.value, num_groups=len(pairs.group_names), seed=seed
        ),
    )


def compare_fairness(
    first_P: Tensor, second_P: Tensor, pairs: VerificationPairs, *, resamples: int = 1000, seed: int = 0
) -> FairnessComparison:
    """Compares two networks on the same resampled people, so that what is hard for both cancels out.

    Args:
        first_P, second_P: Cosine similarity that each network gives to each pair, from `pair_similarity`.
        resamples: How often people are drawn anew for the intervals.

    Raises:
        ValueError: As in `evaluate_fairness`.
    """
    _check(first_P, pairs)
    _check(second_P, pairs)
    both = [*_decisions(first_P, pairs).values(), *_decisions(second_P, pairs).values()]
    member_PG = _members(pairs)
    pairs_G = member_PG.sum(0)

    def differences(weight_RP: Tensor) -> Tensor:
        accuracies = _group_accuracies(both, member_PG, weight_RP)
        own, shared, other_own, other_shared = (_spread(each_RG, pairs_G) for each_RG in accuracies)
        return torch.cat([own - other_own, shared - other_shared], dim=1)

    own_mean, own_std, _, shared_mean, shared_std, _ = _estimates(
        differences, pairs, resamples=resamples, seed=seed
    )
    return FairnessComparison(
        own_threshold_mean=own_mean,
        own_threshold_std=own_std,
        shared_threshold_mean=shared_mean,
        shared_threshold_std=shared_std,
    )


def _check(similarity_P: Tensor, pairs: VerificationPairs) -> None:
    if similarity_P.shape != pairs.group_P.shape:
        raise ValueError(
            f"similarity_P must have one entry for each of the {len(pairs.group_P)} pairs, "
            f"got shape {tuple(similarity_P.shape)}"
        )
    if len(pairs.group_names) < 2:
        raise InputError(f"fairness compares two or more groups, {pairs.name} has {len(pairs.group_names)}")
    for group, (impostors, genuine) in zip(pairs.group_names, _kinds(pairs).tolist(), strict=True):
        if not (impostors and genuine):
            raise ValueError(
                f"each group needs both kinds of pairs, {group} has {genuine} genuine, {impostors} impostor"
            )


def _kinds(pairs: VerificationPairs, counts_P: Tensor | None = None) -> Tensor:
    """Impostor and genuine pairs of each group, of shape (G, 2); of `counts_P` only, where it is given."""
    cell_P = pairs.group_P * 2 + pairs.is_genuine_P.long()
    cells = cell_P if counts_P is None else cell_P[counts_P]
    return torch.bincount(cells, minlength=2 * len(pairs.group_names)).view(-1, 2)


def _members(pairs: VerificationPairs) -> Tensor:
    """1 where a pair is of a group, else 0, float64, of shape (P, G)."""
    return F.one_hot(pairs.group_P, len(pairs.group_names)).double()


def _decisions(similarity_P: Tensor, pairs: VerificationPairs) -> dict[str, Tensor]:
    """Whether each pair is judged rightly, bool, of shape (P,), by whose pairs the thresholds suit."""
    distance_P = 2 * (1 - similarity_P.cpu().double())
    own_P = torch.empty_like(pairs.is_genuine_P)
    for group in range(len(pairs.group_names)):
        in_group_P = pairs.group_P == group
        own_P[in_group_P] = ten_fold(distance_P[in_group_P], pairs.is_genuine_P[in_group_P]).is_right
    return {"own_threshold": own_P, "shared_threshold": ten_fold(distance_P, pairs.is_genuine_P).is_right}


def _group_accuracies(
    decisions: Sequence[Tensor], member_PG: Tensor, weight_RP: Tensor | None = None
) -> list[Tensor]:
    """Share of each group's pairs that each of several decisions judges rightly, of shape (R, G).

    Args:
        weight_RP: Of the pairs, in one product for all decisions; by default 1, and R is 1.
    """
    if weight_RP is None:
        weight_RP = torch.ones(1, len(member_PG), dtype=torch.float64)
    counted = [member_PG, *(member_PG * is_right_P[:, None] for is_right_P in decisions)]
    all_RG, *right = (weight_RP @ torch.cat(counted, dim=1)).split(member_PG.shape[1], dim=1)
    return [right_RG / all_RG for right_RG in right]


def _spread(accuracy_G: Tensor, pairs_G: Tensor) -> Tensor:
    """Mean, population standard deviation and SER of accuracies of shape (..., G), of shape (..., M)."""
    ser = skewed_error_ratio(1 - accuracy_G, pairs_G)
    return torch.stack([accuracy_G.mean(-1), accuracy_G.std(-1, correction=0), ser], dim=-1)


def _estimates(
    statistic: Callable[[Tensor], Tensor], pairs: VerificationPairs, *, resamples: int, seed: int
) -> list[Estimate]:
    """One estimate for each column of a statistic, which maps weights (R, P) to values of shape (R, ...)."""
    values = statistic(torch.ones(1, len(pairs.group_P), dtype=torch.float64))[0].tolist()
    resampled = bootstrap_pairs(statistic, pairs, resamples=resamples, seed=seed)
    return [
        Estimate(value=value, interval=percentile_interval(value_R))
        for value, value_R in zip(values, resampled.unbind(1), strict=True)
    ]


def _accuracy_fairness(
    decisions: Sequence[Tensor], pairs: VerificationPairs, *, resamples: int, seed: int
) -> list[AccuracyFairness]:
    """Of several ways to judge the pairs, on the same resamples: whether each pair is judged rightly."""
    member_PG = _members(pairs)
    pairs_G = member_PG.sum(0)

    def spreads(weight_RP: Tensor) -> Tensor:
        accuracies = _group_accuracies(decisions, member_PG, weight_RP)
        return torch.cat([_spread(accuracy_RG, pairs_G) for accuracy_RG in accuracies], dim=1)

    estimates = _estimates(spreads, pairs, resamples=resamples, seed=seed)
    all_G = _kinds(pairs).sum(1)
    found = []
    for place, is_right_P in enumerate(decisions):
        mean, std, ser = estimates[3 * place : 3 * place + 3]
        wrong_G = _kinds(pairs, ~is_right_P).sum(1)
        found.append(AccuracyFairness(errors=_counts(pairs, wrong_G, all_G), mean=mean, std=std, ser=ser))
    return found


def _counts(pairs: VerificationPairs, errors_G: Tensor, pairs_G: Tensor) -> dict[str, ErrorCount]:
    return {
        group: ErrorCount(errors=errors, pairs=num_pairs)
        for group, errors, num_pairs in zip(
            pairs.group_names, errors_G.tolist(), pairs_G.tolist(), strict=True
        )
    }


def _at_far(similarity_P: Tensor, pairs: VerificationPairs, *, far: float) -> ErrorRateFairness | None:
    num_impostors = int((~pairs.is_genuine_P).sum())
    if math.floor(far * num_impostors + 1e-9) < MIN_FALSE_ACCEPTS:
        return None
    threshold = tar_at_far(similarity_P, pairs.is_genuine_P, far=far).threshold
    return _error_rate_fairness(similarity_P, pairs, threshold)


def _eer_threshold(similarity_P: Tensor, is_genuine_P: Tensor) -> float:
    """The similarity strictly above which accepting puts pooled FAR and FRR closest."""
    far_S, tar_S = roc(similarity_P, is_genuine_P)
    accepted = (far_S - (1 - tar_S)).abs().argmin()
    return similarity_P.unique().flip(0)[accepted].item()


def _error_rate_fairness(
    similarity_P: Tensor, pairs: VerificationPairs, threshold: float
) -> ErrorRateFairness:
    is_wrong_P = (similarity_P > threshold) != pairs.is_genuine_P
    wrong_2G, all_2G = _kinds(pairs, is_wrong_P).T, _kinds(pairs).T
    (fmr_G, fnmr_G), (impostors_G, genuine_G) = wrong_2G / all_2G.double(), all_2G
    return ErrorRateFairness(
        threshold=threshold,
        false_matches=_counts(pairs, wrong_2G[0], impostors_G),
        false_non_matches=_counts(pairs, wrong_2G[1], genuine_G),
        fdr=fairness_discrepancy_rate(fmr_G, fnmr_G),
        ir=inequity_rate(fmr_G, fnmr_G, impostors_G=impostors_G, genuine_G=genuine_G),
        garbe=garbe(fmr_G, fnmr_G),
    )
