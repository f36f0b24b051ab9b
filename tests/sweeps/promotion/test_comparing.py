"""A difference of two students counts when other people would hardly undo it."""

import itertools

import pytest
import torch
from torch import Tensor

from distill.evaluation import percentile_interval, verification_metrics
from distill.faces import VerificationPairs
from sweeps.promotion.comparing import difference, statistic

PEOPLE, GROUPS = 40, ("north", "east")


def pairs(*, with_people: bool = True) -> VerificationPairs:
    """Pairs of people with two images each: a genuine one for each, and impostors of the same group."""
    left, right, group = [], [], []
    for person in range(PEOPLE):
        stranger = (person + 2) % PEOPLE
        left += [2 * person, 2 * person]
        right += [2 * person + 1, 2 * stranger + 1]
        group += [person % 2] * 2
    identity_N = torch.arange(PEOPLE).repeat_interleave(2)
    left_P, right_P = torch.tensor(left), torch.tensor(right)
    return VerificationPairs(
        name="benchmark",
        images_NCHW=torch.zeros(2 * PEOPLE, 3, 2, 2, dtype=torch.uint8),
        left_P=left_P,
        right_P=right_P,
        is_genuine_P=identity_N[left_P] == identity_N[right_P],
        group_P=torch.tensor(group),
        group_names=GROUPS,
        identity_N=identity_N if with_people else None,
    )


def similarity(seed: int, *, margin: float) -> Tensor:
    """Genuine pairs are more alike by `margin` than impostors, in noise."""
    noise_P = torch.randn(2 * PEOPLE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (0.2 * noise_P + margin * pairs().is_genuine_P).clamp(-1, 1)


GOOD, BAD = similarity(0, margin=0.6), similarity(1, margin=0.1)
METRICS = (
    "verification_accuracy",
    "verification_accuracy_north",
    "shared_threshold_accuracy_east",
)


@pytest.mark.parametrize("metric", METRICS)
def test_with_everybody_once_a_statistic_is_the_metric(metric: str) -> None:
    weight_1P = torch.ones(1, 2 * PEOPLE, dtype=torch.float64)
    expected = verification_metrics(GOOD, pairs(), prefix="x")[f"x/{metric}"]
    assert statistic(metric, GOOD, pairs())(weight_1P).tolist() == pytest.approx([expected])


def test_a_metric_that_cannot_be_resampled_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="must be an accuracy or a TAR of the pairs, got 'eer'"):
        statistic("eer", GOOD, pairs())


@pytest.mark.parametrize("metric", METRICS)
def test_the_better_student_leads_beyond_luck_and_the_worse_one_trails(metric: str) -> None:
    ahead = difference(metric, GOOD, BAD, pairs(), confidence=0.95)
    behind = difference(metric, BAD, GOOD, pairs(), confidence=0.95)
    assert 0 < ahead.interval.low < ahead.interval.high
    assert behind.interval.low == pytest.approx(-ahead.interval.high)
    assert behind.interval.high == pytest.approx(-ahead.interval.low)
    assert ahead.over == "people"


def test_both_are_judged_on_the_same_people() -> None:
    """A student against itself differs on no resample, which resamples of its own would not give."""
    same = difference("verification_accuracy", BAD, BAD, pairs(), confidence=0.95)
    assert same.interval.low == same.interval.high == 0


def test_more_confidence_makes_the_interval_wider() -> None:
    low, high = (
        difference("verification_accuracy", GOOD, BAD, pairs(), confidence=confidence).interval
        for confidence in (0.5, 0.99)
    )
    assert high.low < low.low < low.high < high.high


def test_where_nobody_is_known_folds_of_each_group_are_drawn() -> None:
    """Against a plain bootstrap that draws ten folds of each group by hand."""
    unknown = pairs(with_people=False)
    found = difference("verification_accuracy", GOOD, BAD, unknown, confidence=0.95)
    assert found.over == "folds"
    first, second = (
        statistic("verification_accuracy", similarity_P, unknown)(torch.eye(2 * PEOPLE, dtype=torch.float64))
        for similarity_P in (GOOD, BAD)
    )
    apart_P = first - second
    in_fold = [
        [group_pairs[4 * fold : 4 * fold + 4] for fold in range(10)]
        for group_pairs in ([p for p in range(2 * PEOPLE) if p // 2 % 2 == group] for group in (0, 1))
    ]
    rng = torch.Generator().manual_seed(7)
    means = []
    for _ in range(4000):
        drawn = [
            folds[index] for folds in in_fold for index in torch.randint(10, (10,), generator=rng).tolist()
        ]
        means.append(apart_P[list(itertools.chain(*drawn))].mean())
    by_hand = percentile_interval(torch.stack(means))
    assert found.interval.low == pytest.approx(by_hand.low, abs=0.02)
    assert found.interval.high == pytest.approx(by_hand.high, abs=0.02)
