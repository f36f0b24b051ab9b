"""The bootstrap over people: weights by hand, statistics on copied pairs, intervals by simulation."""

import math
import statistics
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distill.evaluation import (
    accuracy_interval,
    bootstrap,
    bootstrap_pairs,
    identity_weights,
    percentile_interval,
    tar_at_far,
    ten_fold,
    weighted_accuracy,
    weighted_tar_at_far,
)
from distill.faces import VerificationPairs

# Persons 10 to 15: a genuine pair of each, whose weight is how often he was drawn, then impostor pairs.
LEFT_P = torch.tensor([10, 11, 12, 13, 14, 15, 10, 11, 13, 15])
RIGHT_P = torch.tensor([10, 11, 12, 13, 14, 15, 11, 12, 14, 13])
STRATUM_P = torch.tensor([7, 7, 7, 2, 2, 2, 7, 7, 2, 2])


def genuine_pairs(num_people: int, *, pairs_each: int, seed: int) -> tuple[Tensor, Tensor]:
    """Who is on each genuine pair, and whether it is judged rightly: 80%, by person half or all of them."""
    rng = torch.Generator().manual_seed(seed)
    share_I = torch.where(torch.rand(num_people, generator=rng) < 0.4, 0.5, 1.0)
    person_P = torch.arange(num_people).repeat_interleave(pairs_each)
    return person_P, torch.rand(len(person_P), generator=rng) < share_I[person_P]


def interval_of_genuine(person_P: Tensor, is_right_P: Tensor, *, resamples: int = 400) -> tuple[float, float]:
    value_R = bootstrap(
        lambda weight_RP: weighted_accuracy(is_right_P, weight_RP),
        person_P,
        person_P,
        resamples=resamples,
        seed=0,
    )
    interval = percentile_interval(value_R)
    return interval.low, interval.high


def test_a_pair_of_two_people_weighs_the_product_of_their_draws() -> None:
    for weights in identity_weights(LEFT_P, RIGHT_P, resamples=50, seed=0, stratum_P=STRATUM_P).tolist():
        drawn = dict(zip(range(10, 16), weights, strict=False))
        impostors = [(10, 11), (11, 12), (13, 14), (15, 13)]
        assert weights[6:] == [drawn[left] * drawn[right] for left, right in impostors]


def test_as_many_people_are_drawn_as_there_are_in_each_stratum() -> None:
    weight_RP = identity_weights(LEFT_P, RIGHT_P, resamples=50, seed=0, stratum_P=STRATUM_P)
    assert weight_RP[:, :3].sum(1).tolist() == [3.0] * 50
    assert weight_RP[:, 3:6].sum(1).tolist() == [3.0] * 50
    one_stratum_RP = identity_weights(LEFT_P, RIGHT_P, resamples=50, seed=0)
    assert one_stratum_RP[:, :6].sum(1).tolist() == [6.0] * 50
    assert one_stratum_RP[:, :3].sum(1).unique().numel() > 1


def test_draws_are_multinomial() -> None:
    weight_RP = identity_weights(LEFT_P[:6], RIGHT_P[:6], resamples=40_000, seed=0)
    # n draws of n people: mean 1, variance 1 - 1/n, covariance -1/n
    covariance = torch.full((6, 6), -1 / 6, dtype=torch.float64) + torch.eye(6)
    torch.testing.assert_close(weight_RP.mean(0), torch.ones(6).double(), rtol=0, atol=0.03)
    torch.testing.assert_close(weight_RP.T.cov(), covariance, rtol=0, atol=0.03)


def test_the_seed_decides() -> None:
    first, again, other = (identity_weights(LEFT_P, RIGHT_P, resamples=20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_many_resamples_are_joined() -> None:
    person_P, _ = genuine_pairs(3000, pairs_each=1, seed=0)
    weight_RP = identity_weights(person_P, person_P, resamples=1500, seed=0)  # more than fit at once
    value_R = bootstrap(lambda weights: weights[:, 0], person_P, person_P, resamples=1500, seed=0)
    assert weight_RP.shape == (1500, 3000)
    assert torch.equal(value_R, weight_RP[:, 0])


def test_weighted_accuracy_by_hand() -> None:
    weight_RP = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    accuracy_R = weighted_accuracy(torch.tensor([True, True, False, False]), weight_RP)
    assert accuracy_R[:2].tolist() == pytest.approx([2 / 4, 2 / 6])
    assert accuracy_R[2].isnan()


@pytest.mark.parametrize("far", [0.02, 0.1, 0.35])
def test_weighted_tar_at_far_is_that_of_copied_pairs(far: float) -> None:
    rng = torch.Generator().manual_seed(1)
    is_genuine_P = torch.rand(300, generator=rng) < 0.5
    # rounded, so that many pairs tie
    similarity_P = (torch.randn(300, generator=rng) / 2 + is_genuine_P).mul(10).round() / 10
    weight_RP = torch.randint(4, (20, 300), generator=rng).double()
    tar_R = weighted_tar_at_far(similarity_P, is_genuine_P, weight_RP, far=far)
    for weight_P, tar in zip(weight_RP.long(), tar_R.tolist(), strict=True):
        copies = similarity_P.repeat_interleave(weight_P), is_genuine_P.repeat_interleave(weight_P)
        assert tar == pytest.approx(tar_at_far(*copies, far=far).tar, abs=1e-12)


def test_a_resample_without_a_kind_of_pairs_has_no_tar() -> None:
    similarity_P, is_genuine_P = torch.tensor([0.9, 0.8, 0.1, 0.2]), torch.tensor([True, True, False, False])
    weight_RP = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    tar_R = weighted_tar_at_far(similarity_P, is_genuine_P, weight_RP, far=0.5)
    assert tar_R.isnan().tolist() == [True, True, False]


def test_percentiles_by_hand() -> None:
    interval = percentile_interval(torch.arange(101.0).flip(0), level=0.9)
    assert (interval.low, interval.high) == pytest.approx((5.0, 95.0))


def test_resamples_that_say_nothing_are_passed_over() -> None:
    interval = percentile_interval(torch.tensor([math.nan, 1.0, 1.0, math.nan]))
    assert (interval.low, interval.high) == (1.0, 1.0)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    holds = 0
    for seed in range(100):
        low, high = interval_of_genuine(*genuine_pairs(80, pairs_each=5, seed=seed), resamples=200)
        holds += low <= 0.8 <= high
    assert 88 <= holds <= 99


def test_intervals_halve_with_four_times_the_people() -> None:
    low, high = interval_of_genuine(*genuine_pairs(100, pairs_each=5, seed=0), resamples=2000)
    narrow_low, narrow_high = interval_of_genuine(*genuine_pairs(400, pairs_each=5, seed=0), resamples=2000)
    assert (high - low) / (narrow_high - narrow_low) == pytest.approx(2, rel=0.2)


def test_people_vary_more_than_pairs() -> None:
    person_P, is_right_P = genuine_pairs(100, pairs_each=20, seed=0)
    low, high = interval_of_genuine(person_P, is_right_P)
    pairs_low, pairs_high = interval_of_genuine(torch.arange(len(person_P)), is_right_P)
    assert high - low > 1.5 * (pairs_high - pairs_low)


def test_impostors_that_share_a_person_vary_together() -> None:
    # one person in all 99 pairs, against as many pairs of people who meet once
    is_right_P = torch.arange(99) % 3 > 0
    star = torch.zeros(99, dtype=torch.int64), torch.arange(1, 100)
    weight_RP = identity_weights(*star, resamples=2000, seed=0)
    apart_RP = identity_weights(torch.arange(99), torch.arange(99, 198), resamples=2000, seed=0)
    assert weight_RP.sum(1).std() > 3 * apart_RP.sum(1).std()
    assert weighted_accuracy(is_right_P, weight_RP).isnan().double().mean() == pytest.approx(
        math.exp(-1), abs=0.04
    )


@pytest.mark.parametrize(
    ("resamples", "num_pairs", "message"),
    [(0, 3, "resamples=0 and 3 pairs"), (5, 0, "resamples=5 and 0 pairs")],
)
def test_refuses_nothing_to_draw(resamples: int, num_pairs: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        identity_weights(LEFT_P[:num_pairs], RIGHT_P[:num_pairs], resamples=resamples, seed=0)


def test_refuses_a_person_in_two_strata() -> None:
    left_P, right_P, stratum_P = torch.tensor([[11, 13], [12, 11], [0, 1]])
    with pytest.raises(ValueError, match="in one stratum, person 11 is in two"):
        identity_weights(left_P, right_P, resamples=1, seed=0, stratum_P=stratum_P)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_refuses_a_level_that_is_no_fraction(level: float) -> None:
    with pytest.raises(ValueError, match=r"level must be a fraction in \(0, 1\)"):
        percentile_interval(torch.rand(5), level=level)


def test_refuses_an_interval_of_nothing() -> None:
    with pytest.raises(ValueError, match="got none in 2"):
        percentile_interval(torch.tensor([math.nan, math.nan]))


def test_refuses_a_far_it_cannot_measure() -> None:
    with pytest.raises(ValueError, match=r"far=0.01 needs 100 impostor pairs, got 3"):
        weighted_tar_at_far(torch.rand(6), torch.arange(6) < 3, torch.ones(1, 6), far=0.01)


def test_the_interval_of_an_accuracy_is_that_of_resampled_people_or_of_the_folds() -> None:
    rng = torch.Generator().manual_seed(3)
    is_genuine_P = torch.arange(400) % 2 == 0
    similarity_P = 0.4 * is_genuine_P + 0.3 * torch.randn(400, generator=rng).double()
    people = torch.arange(40).repeat_interleave(2)
    left_P = 2 * (torch.arange(400) % 40)
    pairs = VerificationPairs(
        name="benchmark",
        images_NCHW=torch.zeros(80, 3, 1, 1, dtype=torch.uint8),
        left_P=left_P,
        right_P=torch.where(is_genuine_P, left_P + 1, (left_P + 10) % 80),
        is_genuine_P=is_genuine_P,
        group_P=torch.zeros(400, dtype=torch.long),
        group_names=(),
        identity_N=people,
    )
    folds = ten_fold(2 * (1 - similarity_P), is_genuine_P)
    of_people = accuracy_interval(similarity_P, pairs)
    by_hand = bootstrap_pairs(
        lambda weight_RP: weighted_accuracy(folds.is_right, weight_RP), pairs, resamples=1000, seed=0
    )
    assert of_people == percentile_interval(by_hand)
    of_folds = accuracy_interval(similarity_P, replace(pairs, identity_N=None))
    accuracies = folds.accuracies.tolist()
    margin = 1.96 * statistics.stdev(accuracies) / math.sqrt(10)
    assert of_folds.low == pytest.approx(folds.accuracy - margin)
    assert of_folds.high == pytest.approx(folds.accuracy + margin)
