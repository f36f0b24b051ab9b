"""What ten-fold verification of 6,000 pairs and a bootstrap of fairness cost, against plain loops.

Ten-fold: the plain loop judges all pairs of nine folds anew at each of 400 thresholds, for each of ten folds.
Both start from distances, and both must find the same accuracies.

Fairness: the plain loop goes through the pairs of every resample one by one, and is handed how often each
person was drawn, while ours draws them too. Both must find the same intervals.

P: pairs, I: people, R: resamples
"""

import math
import statistics
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.row import Goal, Row, in_turns, seconds
from distill.evaluation import fairness_report, ten_fold
from distill.evaluation.bootstrap import WEIGHTS_AT_ONCE, _draw
from distill.evaluation.fairness import FairnessReport
from distill.faces import VerificationPairs

NUM_PAIRS, NUM_GROUPS, PEOPLE_PER_GROUP, IMAGES_PER_PERSON = 6_000, 4, 100, 6
DRAWS = 1_000
DECISIONS = ("own_threshold", "shared_threshold")


def measure(quick: bool) -> list[Row]:
    """Both on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    repetitions = 1 if quick else 7
    pairs = make_pairs()
    similarity_P = torch.where(pairs.is_genuine_P, 0.5, 0.1).double() + 0.15 * torch.randn(NUM_PAIRS)
    return [
        _ten_fold_row(similarity_P.clamp(-1, 1), pairs, repetitions=repetitions),
        _fairness_row(
            similarity_P.clamp(-1, 1), pairs, draws=20 if quick else DRAWS, repetitions=repetitions
        ),
    ]


def make_pairs() -> VerificationPairs:
    """Pairs as a benchmark has them, whose images nobody looks at."""
    num_people = NUM_GROUPS * PEOPLE_PER_GROUP
    person_N = torch.arange(num_people).repeat_interleave(IMAGES_PER_PERSON)
    group_P = torch.arange(NUM_PAIRS) % NUM_GROUPS
    is_genuine_P = torch.arange(NUM_PAIRS) // NUM_GROUPS % 2 == 0
    left_person_P = torch.randint(PEOPLE_PER_GROUP, (NUM_PAIRS,))
    further_P = torch.randint(1, PEOPLE_PER_GROUP, (NUM_PAIRS,))
    right_person_P = torch.where(is_genuine_P, left_person_P, (left_person_P + further_P) % PEOPLE_PER_GROUP)
    first_P = group_P * PEOPLE_PER_GROUP
    return VerificationPairs(
        name="made up",
        images_NCHW=torch.zeros(len(person_N), 3, 1, 1, dtype=torch.uint8),
        left_P=(first_P + left_person_P) * IMAGES_PER_PERSON,
        right_P=(first_P + right_person_P) * IMAGES_PER_PERSON + 1,
        is_genuine_P=is_genuine_P,
        group_P=group_P,
        group_names=tuple(f"group {group}" for group in range(NUM_GROUPS)),
        identity_N=person_N,
    )


def plain_ten_fold(distances: np.ndarray, is_genuine: np.ndarray) -> list[float]:
    """Accuracy of each held-out fold, at the lowest threshold that judges the other nine best."""
    thresholds = np.arange(0, 4, 0.01)
    pairs = np.arange(len(distances))
    accuracies = []
    for held_out in np.array_split(pairs, 10):
        others = np.setdiff1d(pairs, held_out)
        accuracy_of = [
            np.mean((distances[others] < threshold) == is_genuine[others]) for threshold in thresholds
        ]
        best = thresholds[np.argmax(accuracy_of)]
        accuracies.append(float(np.mean((distances[held_out] < best) == is_genuine[held_out])))
    return accuracies


def plain_intervals(
    draws: Sequence[Sequence[float]], is_right: Sequence[bool], pairs: VerificationPairs
) -> list[tuple[float, float]]:
    """The 95 % intervals of the mean, the deviation and the SER of the groups' accuracies.

    Args:
        draws: How often each person was drawn, by resample.
        is_right: Whether each pair is judged rightly.
    """
    people = pairs.people()
    left, right = people[pairs.left_P].tolist(), people[pairs.right_P].tolist()
    groups, num_groups = pairs.group_P.tolist(), len(pairs.group_names)
    pairs_of = [groups.count(group) for group in range(num_groups)]
    found: list[tuple[float, float, float]] = []
    for drawn in draws:
        weights, rights = [0.0] * num_groups, [0.0] * num_groups
        for one, other, group, judged_rightly in zip(left, right, groups, is_right, strict=True):
            weight = drawn[one] if one == other else drawn[one] * drawn[other]
            weights[group] += weight
            if judged_rightly:
                rights[group] += weight
        accuracies = [r / w for r, w in zip(rights, weights, strict=True)]
        errors = [1 - accuracy or 3 / num for accuracy, num in zip(accuracies, pairs_of, strict=True)]
        spread = statistics.pstdev(accuracies)
        found.append((statistics.fmean(accuracies), spread, max(errors) / min(errors)))
    return [tuple(np.quantile(values, [0.025, 0.975])) for values in zip(*found, strict=True)]


def _ten_fold_row(similarity_P: Tensor, pairs: VerificationPairs, *, repetitions: int) -> Row:
    distance_P = 2 * (1 - similarity_P)
    distances, is_genuine = distance_P.numpy(), pairs.is_genuine_P.numpy()
    if ten_fold(distance_P, pairs.is_genuine_P).accuracies.tolist() != plain_ten_fold(distances, is_genuine):
        raise AssertionError("the two ways find different accuracies")
    ours, plain = in_turns(
        lambda: 1 / seconds(lambda: ten_fold(distance_P, pairs.is_genuine_P)),
        lambda: 1 / seconds(lambda: plain_ten_fold(distances, is_genuine)),
        repetitions=repetitions,
    )
    return Row(
        name="ten_fold",
        what=f"ten-fold verification of {NUM_PAIRS:,} pairs",
        unit="times a second",
        ours=ours,
        other=plain,
        against="a loop over folds and thresholds",
        goal=Goal(side="at least", bound=10),
        note="one thread; equal accuracies",
    )


def _fairness_row(similarity_P: Tensor, pairs: VerificationPairs, *, draws: int, repetitions: int) -> Row:
    drawn = _draws(pairs, draws)
    folds = ten_fold(2 * (1 - similarity_P), pairs.is_genuine_P)
    own = torch.zeros_like(folds.is_right)
    for group in range(NUM_GROUPS):
        in_group_P = pairs.group_P == group
        own[in_group_P] = ten_fold(
            2 * (1 - similarity_P[in_group_P]), pairs.is_genuine_P[in_group_P]
        ).is_right
    decisions = [own.tolist(), folds.is_right.tolist()]

    def ours() -> FairnessReport:
        return fairness_report(similarity_P, pairs, resamples=draws)

    def plain() -> list[list[tuple[float, float]]]:
        return [plain_intervals(drawn, is_right, pairs) for is_right in decisions]

    for name, intervals in zip(DECISIONS, plain(), strict=True):
        report = getattr(ours(), name)
        for estimate, (low, high) in zip((report.mean, report.std, report.ser), intervals, strict=True):
            if not (math.isclose(estimate.interval.low, low) and math.isclose(estimate.interval.high, high)):
                raise AssertionError("the two ways find different intervals")
    ours_per_s, plain_per_s = in_turns(
        lambda: 1 / seconds(ours), lambda: 1 / seconds(plain), repetitions=repetitions
    )
    return Row(
        name="fairness",
        what=f"fairness of {NUM_PAIRS:,} pairs with {draws:,} bootstrap draws",
        unit="times a second",
        ours=ours_per_s,
        other=plain_per_s,
        against="a loop over draws and pairs",
        goal=Goal(side="at least", bound=20),
        note="one thread; equal intervals; ours draws the people and measures more beside, the loop does not",
    )


def _draws(pairs: VerificationPairs, draws: int) -> list[list[float]]:
    """How often `fairness_report` draws each person, by resample."""
    stratum_I = torch.arange(NUM_GROUPS).repeat_interleave(PEOPLE_PER_GROUP)
    if len(torch.cat([pairs.left_P, pairs.right_P]).div(IMAGES_PER_PERSON).long().unique()) != len(stratum_I):
        raise AssertionError("everybody must be in a pair: who is in none is not drawn")
    step = max(1, WEIGHTS_AT_ONCE // NUM_PAIRS)
    rng = torch.Generator().manual_seed(0)
    parts = [_draw(stratum_I, min(step, draws - start), rng) for start in range(0, draws, step)]
    return torch.cat(parts).tolist()
