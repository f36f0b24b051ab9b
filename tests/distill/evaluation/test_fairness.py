"""Fairness metrics against numbers worked out by hand, and noise floors against simulation."""

import dataclasses
import json
import math
import random

import pytest
import torch
from torch import Tensor

from distill.evaluation import compare_fairness, evaluate_fairness, fairness_report, noise_floor, ten_fold
from distill.evaluation.fairness import (
    ErrorCount,
    fairness_discrepancy_rate,
    garbe,
    gini,
    inequity_rate,
    skewed_error_ratio,
)
from distill.faces import VerificationPairs

GROUPS = ("north", "east", "south", "west")


def make_pairs(
    false_matches: tuple[int, ...],
    false_non_matches: tuple[int, ...],
    *,
    impostors: int = 250,
    genuine: int = 250,
    group_names: tuple[str, ...] = GROUPS,
) -> tuple[Tensor, VerificationPairs]:
    """Pairs of every group in turn with so many errors at any threshold between 0 and 0.7.

    From the most alike down: wrong impostors, right genuine pairs, right impostors, wrong genuine pairs. So
    no other threshold is as good. Each group has 50 people, each with two images.
    """
    similarity, is_genuine, group = [], [], []
    for index, (num_matches, num_non_matches) in enumerate(
        zip(false_matches, false_non_matches, strict=True)
    ):
        similarity += [0.9] * num_matches + [0.0] * (impostors - num_matches)
        similarity += [-0.5] * num_non_matches + [0.7] * (genuine - num_non_matches)
        is_genuine += [False] * impostors + [True] * genuine
        group += [index] * (impostors + genuine)
    order = torch.randperm(len(group), generator=torch.Generator().manual_seed(0))
    is_genuine_P, group_P = torch.tensor(is_genuine)[order], torch.tensor(group)[order]
    person_P = group_P * 50 + torch.arange(len(group)) % 50
    stranger_P = group_P * 50 + (torch.arange(len(group)) % 50 + 7) % 50
    identity_N = torch.arange(50 * len(group_names)).repeat_interleave(2)
    return torch.tensor(similarity, dtype=torch.float64)[order], VerificationPairs(
        name="benchmark",
        images_NCHW=torch.zeros(len(identity_N), 3, 1, 1, dtype=torch.uint8),
        left_P=2 * person_P,
        right_P=torch.where(is_genuine_P, 2 * person_P + 1, 2 * stranger_P),
        is_genuine_P=is_genuine_P,
        group_P=group_P,
        group_names=group_names,
        identity_N=identity_N,
    )


def noisy_pairs(
    noise: float = 0.3, *, seed: int = 0, harder: float = 0.0
) -> tuple[Tensor, VerificationPairs]:
    """Similarities with normal noise, more by `harder` in the last group."""
    _, pairs = make_pairs((0,) * 4, (0,) * 4)
    noise_P = torch.randn(len(pairs.group_P), generator=torch.Generator().manual_seed(seed)).double()
    scale_P = noise + harder * (pairs.group_P == 3)
    return (0.7 * pairs.is_genuine_P + scale_P * noise_P).clamp(-1, 1), pairs


def rates(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_every_number_by_hand() -> None:
    similarity_P, pairs = make_pairs((1, 2, 3, 4), (5, 5, 5, 25))
    metrics = evaluate_fairness(similarity_P, pairs, prefix="benchmark")
    # Of 500, 6, 7, 8, 29 are wrong: accuracies .988, .986, .984, .942, off .975 by .013, .011, .009, -.033
    mean, std, ser = 0.975, math.sqrt((0.013**2 + 0.011**2 + 0.009**2 + 0.033**2) / 4), 29 / 6
    assert metrics == pytest.approx(
        {
            "benchmark/fairness/own_threshold_mean": mean,
            "benchmark/fairness/own_threshold_std": std,
            "benchmark/fairness/own_threshold_ser": ser,
            "benchmark/fairness/shared_threshold_mean": mean,
            "benchmark/fairness/shared_threshold_std": std,
            "benchmark/fairness/shared_threshold_ser": ser,
            "benchmark/fairness/mean_minus_std": mean - std,
            # FMR .004, .008, .012, .016; FNMR .02, .02, .02, .10
            "benchmark/fairness/fdr": 1 - 0.5 * 0.012 - 0.5 * 0.08,
            "benchmark/fairness/ir": math.sqrt(4 * 5),
            # G(1, 2, 3, 4) = 4/3 * 20 / (2 * 16 * 2.5) = 1/3; G(1, 1, 1, 5) = 4/3 * 24 / (2 * 16 * 2) = 1/2
            "benchmark/fairness/garbe": 0.5 / 3 + 0.5 / 2,
        }
    )


def test_impostors_are_the_base_of_false_matches_and_genuine_pairs_of_false_non_matches() -> None:
    similarity_P, pairs = make_pairs((1, 2, 3, 4), (5, 5, 5, 25), impostors=300, genuine=50)
    report = fairness_report(similarity_P, pairs, resamples=5)
    assert report.at_far is not None
    assert report.at_far.false_matches["west"] == ErrorCount(errors=4, pairs=300)
    assert report.at_far.false_non_matches["west"] == ErrorCount(errors=25, pairs=50)
    assert report.at_far.fdr == pytest.approx(1 - 0.5 * 3 / 300 - 0.5 * 20 / 50)


def test_a_group_whose_similarities_are_shifted_suffers_at_the_shared_threshold_only() -> None:
    similarity_P, pairs = make_pairs((0,) * 4, (0,) * 4)
    shifted_P = similarity_P - 0.75 * (pairs.group_P == 2)  # its genuine pairs are below others' impostors
    metrics = evaluate_fairness(shifted_P, pairs, prefix="v")
    assert metrics["v/fairness/own_threshold_mean"] == 1.0
    assert metrics["v/fairness/own_threshold_std"] == 0.0
    assert metrics["v/fairness/own_threshold_ser"] == 1.0
    assert metrics["v/fairness/shared_threshold_mean"] == pytest.approx((3 + 0.5) / 4)
    assert metrics["v/fairness/shared_threshold_std"] == pytest.approx(math.sqrt(3) / 8)
    assert metrics["v/fairness/shared_threshold_ser"] == pytest.approx(0.5 / (3 / 500))
    # all 250 genuine pairs of one group are refused, none of the others
    assert metrics["v/fairness/fdr"] == pytest.approx(0.5)
    assert metrics["v/fairness/garbe"] == pytest.approx(0.5)
    assert metrics["v/fairness/ir"] == pytest.approx(math.sqrt(1 / (3 / 250)))


def test_own_threshold_accuracies_are_those_of_ten_folds_in_each_group() -> None:
    similarity_P, pairs = noisy_pairs(harder=0.2)
    distance_P = 2 - 2 * similarity_P
    accuracies = [
        ten_fold(distance_P[pairs.group_P == group], pairs.is_genuine_P[pairs.group_P == group]).accuracy
        for group in range(4)
    ]
    mean = sum(accuracies) / 4
    metrics = evaluate_fairness(similarity_P, pairs, prefix="v")
    assert metrics["v/fairness/own_threshold_mean"] == pytest.approx(mean)
    assert metrics["v/fairness/own_threshold_std"] == pytest.approx(
        math.sqrt(sum((accuracy - mean) ** 2 for accuracy in accuracies) / 4)
    )
    assert metrics["v/fairness/own_threshold_ser"] == pytest.approx(
        (1 - min(accuracies)) / (1 - max(accuracies))
    )


def test_the_threshold_of_error_rates_is_pooled() -> None:
    similarity_P, pairs = noisy_pairs()
    report = fairness_report(similarity_P, pairs, far=0.02, resamples=5)
    assert report.at_far is not None
    impostors = sorted(similarity_P[~pairs.is_genuine_P].tolist(), reverse=True)
    assert report.at_far.threshold == impostors[20]
    assert sum(count.errors for count in report.at_far.false_matches.values()) == 20
    assert sum(count.pairs for count in report.at_far.false_matches.values()) == 1000


def test_errors_of_both_kinds_are_equal_at_the_eer_threshold() -> None:
    similarity_P, pairs = noisy_pairs()
    at_eer = fairness_report(similarity_P, pairs, resamples=5).at_eer

    def gap(threshold: float) -> float:
        accepted_P = similarity_P > threshold
        false_accepts = (accepted_P & ~pairs.is_genuine_P).sum().item() / 1000
        false_rejects = (~accepted_P & pairs.is_genuine_P).sum().item() / 1000
        return abs(false_accepts - false_rejects)

    assert gap(at_eer.threshold) == min(map(gap, similarity_P.tolist())) <= 0.001
    for group, counts in at_eer.false_matches.items():
        in_group_P = (pairs.group_P == GROUPS.index(group)) & ~pairs.is_genuine_P
        assert counts.errors == sum(s > at_eer.threshold for s in similarity_P[in_group_P].tolist())


@pytest.mark.parametrize(
    ("errors", "pairs", "expected"),
    [
        ([1, 2, 4, 8], [100] * 4, 8.0),
        ([1, 2, 4, 8], [100, 100, 100, 400], 4.0),
        ([0, 2, 4, 9], [100] * 4, 4.5),  # 0 counts as 3 of 100, so 2 are the fewest
        ([0, 6, 9, 9], [100] * 4, 3.0),
        ([0, 0, 0, 0], [100] * 4, 1.0),
        ([0, 0], [100, 200], 2.0),
        ([0, 1], [2, 4], 4.0),  # the floor is at most everything wrong
        ([0, 0, 0, 1], [100] * 4, 3.0),
    ],
)
def test_skewed_error_ratio(errors: list[int], pairs: list[int], expected: float) -> None:
    pairs_G = rates(*pairs)
    assert skewed_error_ratio(rates(*errors) / pairs_G, pairs_G).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.3, 0.3, 0.3], 0.0),
        ([0.0, 0.0, 0.0], 0.0),
        ([0.0, 0.0, 0.0, 0.2], 1.0),
        ([0.0, 0.5], 1.0),
        ([0.1, 0.3], 0.5),  # 2/1 * 0.4 / (2 * 4 * 0.2)
        ([0.1, 0.2, 0.3], 1 / 3),  # 3/2 * 0.8 / (2 * 9 * 0.2)
    ],
)
def test_gini(values: list[float], expected: float) -> None:
    assert gini(rates(*values)) == pytest.approx(expected)
    assert gini(7 * rates(*values).flip(0)) == pytest.approx(expected)


def test_alpha_weighs_false_matches() -> None:
    fmr_G, fnmr_G = rates(0.1, 0.2), rates(0.4, 0.1)
    assert fairness_discrepancy_rate(fmr_G, fnmr_G, alpha=0.25) == pytest.approx(1 - 0.25 * 0.1 - 0.75 * 0.3)
    assert inequity_rate(
        fmr_G, fnmr_G, impostors_G=rates(10, 10), genuine_G=rates(10, 10), alpha=0.25
    ) == pytest.approx(2**0.25 * 4**0.75)
    assert garbe(fmr_G, fnmr_G, alpha=0.25) == pytest.approx(0.25 / 3 + 0.75 * 0.6)


def test_inequity_rates_are_floored_by_the_pairs_of_their_kind() -> None:
    ratio = inequity_rate(rates(0, 0.2), rates(0, 0.2), impostors_G=rates(100, 100), genuine_G=rates(25, 25))
    # 0.2 over 3/100, and 0.2 over 3/25
    assert ratio == pytest.approx(math.sqrt(0.2 / 0.03 * (0.2 / 0.12)))


@pytest.mark.parametrize("errors", [(0, 0, 0, 0), (0, 0, 0, 1), (1, 0, 0, 0)])
def test_no_error_or_a_single_one_is_counted_as_such(errors: tuple[int, ...]) -> None:
    similarity_P, pairs = make_pairs(errors, (0,) * 4)
    report = fairness_report(similarity_P, pairs, resamples=20)
    assert report.at_far is not None
    for counts in (report.at_far.false_matches, report.at_eer.false_matches):
        assert [counts[group].errors for group in GROUPS] == list(errors)
    assert [report.shared_threshold.errors[group].errors for group in GROUPS] == list(errors)
    assert report.at_far.ir == pytest.approx(math.sqrt(3) if any(errors) else 1.0)
    assert report.at_far.garbe == pytest.approx(0.5 if any(errors) else 0.0)
    assert report.shared_threshold.ser.value == pytest.approx(3.0 if any(errors) else 1.0)


def test_groups_are_interchangeable() -> None:
    def numbers(order: tuple[int, ...]) -> list[float]:
        false_matches, false_non_matches = (1, 2, 3, 4), (9, 0, 7, 2)
        similarity_P, pairs = make_pairs(
            tuple(false_matches[group] for group in order), tuple(false_non_matches[group] for group in order)
        )
        return list(evaluate_fairness(similarity_P, pairs, prefix="v").values())

    assert numbers((3, 1, 0, 2)) == pytest.approx(numbers((0, 1, 2, 3)))


def test_error_rates_are_left_out_where_impostors_are_too_few() -> None:
    similarity_P, pairs = make_pairs((1, 1, 1, 1), (1, 1, 1, 1), impostors=249)
    assert not {"v/fairness/fdr", "v/fairness/ir", "v/fairness/garbe"} & set(
        evaluate_fairness(similarity_P, pairs, prefix="v")
    )
    assert fairness_report(similarity_P, pairs, resamples=5).at_far is None


def test_a_report_agrees_with_the_numbers_of_every_epoch_and_goes_to_json() -> None:
    similarity_P, pairs = noisy_pairs(harder=0.2)
    metrics = evaluate_fairness(similarity_P, pairs, prefix="v")
    report = json.loads(json.dumps(dataclasses.asdict(fairness_report(similarity_P, pairs, resamples=50))))
    for threshold in ("own_threshold", "shared_threshold"):
        for name in ("mean", "std", "ser"):
            assert report[threshold][name]["value"] == pytest.approx(
                metrics[f"v/fairness/{threshold}_{name}"]
            )
    for name in ("fdr", "ir", "garbe"):
        assert report["at_far"][name] == metrics[f"v/fairness/{name}"]


def test_intervals_of_a_report_lie_around_the_mean() -> None:
    report = fairness_report(*noisy_pairs(), resamples=300)
    for accuracy in (report.own_threshold, report.shared_threshold):
        assert accuracy.mean.interval.low < accuracy.mean.value < accuracy.mean.interval.high
        assert accuracy.std.interval.low >= 0
        assert accuracy.ser.interval.low >= 1


def test_the_same_seed_gives_the_same_report() -> None:
    first, again = (fairness_report(*noisy_pairs(), resamples=20, seed=3) for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("error", "std", "std_p95", "ser", "ser_p95"),
    [
        (0.01, 0.10, 0.18, 1.31, 1.61),
        (0.03, 0.18, 0.31, 1.17, 1.31),
        (0.10, 0.31, 0.54, 1.08, 1.15),
    ],
)
def test_noise_floor_of_6000_pairs(
    error: float, std: float, std_p95: float, ser: float, ser_p95: float
) -> None:
    """Expected values are of 20,000 simulations, in points."""
    floor = noise_floor(6000, 1 - error, num_groups=4, simulations=8000)
    assert (100 * floor.std, 100 * floor.std_p95) == pytest.approx((std, std_p95), abs=0.01)
    assert (floor.ser, floor.ser_p95) == pytest.approx((ser, ser_p95), abs=0.02)


def test_noise_floor_matches_a_simulation_pair_by_pair() -> None:
    rng = random.Random(0)
    stds, sers = [], []
    for _ in range(1500):
        errors = [sum(rng.random() < 0.2 for _ in range(40)) for _ in range(3)]
        shares = [(count or 3) / 40 for count in errors]
        mean = sum(errors) / 120
        stds.append(math.sqrt(sum((count / 40 - mean) ** 2 for count in errors) / 3))
        sers.append(max(shares) / min(shares))
    floor = noise_floor(40, 0.8, num_groups=3, simulations=20_000)
    assert floor.std == pytest.approx(sum(stds) / 1500, rel=0.05)
    assert floor.ser == pytest.approx(sum(sers) / 1500, rel=0.05)
    assert floor.ser_p95 == pytest.approx(sorted(sers)[1425], rel=0.1)


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_no_noise_where_chance_has_no_say(accuracy: float) -> None:
    floor = noise_floor(100, accuracy, num_groups=4, simulations=10)
    assert (floor.std, floor.std_p95, floor.ser, floor.ser_p95) == (0.0, 0.0, 1.0, 1.0)


def test_a_network_does_not_differ_from_itself() -> None:
    similarity_P, pairs = noisy_pairs()
    comparison = compare_fairness(similarity_P, similarity_P, pairs, resamples=50)
    for estimate in vars(comparison).values():
        assert (estimate.value, estimate.interval.low, estimate.interval.high) == (0.0, 0.0, 0.0)


def test_a_comparison_is_first_minus_second() -> None:
    (first_P, pairs), (second_P, _) = noisy_pairs(0.2), noisy_pairs(0.2, harder=0.4)
    first, second = (
        evaluate_fairness(similarity_P, pairs, prefix="v") for similarity_P in (first_P, second_P)
    )
    comparison = compare_fairness(first_P, second_P, pairs, resamples=300)
    for name, estimate in vars(comparison).items():
        assert estimate.value == pytest.approx(first[f"v/fairness/{name}"] - second[f"v/fairness/{name}"])
    # the first is the more accurate and the fairer, whoever is photographed
    assert comparison.shared_threshold_mean.interval.low > 0
    assert comparison.shared_threshold_std.interval.high < 0
    mirrored = compare_fairness(second_P, first_P, pairs, resamples=300).own_threshold_std
    assert mirrored.interval.low == pytest.approx(-comparison.own_threshold_std.interval.high)


def test_pairing_narrows_a_comparison() -> None:
    similarity_P, pairs = noisy_pairs()
    slightly_off_P = similarity_P + 0.01 * torch.randn(2000, generator=torch.Generator().manual_seed(5))
    paired = compare_fairness(
        similarity_P, slightly_off_P, pairs, resamples=300
    ).shared_threshold_mean.interval
    alone = fairness_report(similarity_P, pairs, resamples=300).shared_threshold.mean.interval
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_refuses_a_single_group() -> None:
    similarity_P, pairs = make_pairs((1,), (1,), group_names=("all",))
    with pytest.raises(ValueError, match="two or more groups, benchmark has 1"):
        evaluate_fairness(similarity_P, pairs, prefix="v")


def test_refuses_a_group_without_a_kind_of_pairs() -> None:
    similarity_P, pairs = make_pairs((0, 0), (0, 0), group_names=("north", "east"))
    one_sided = dataclasses.replace(pairs, is_genuine_P=pairs.is_genuine_P | (pairs.group_P == 1))
    with pytest.raises(ValueError, match="east has 500 genuine, 0 impostor"):
        fairness_report(similarity_P, one_sided)


def test_refuses_similarities_of_other_pairs() -> None:
    similarity_P, pairs = noisy_pairs()
    with pytest.raises(ValueError, match=r"each of the 2000 pairs, got shape \(1999,\)"):
        compare_fairness(similarity_P, similarity_P[1:], pairs)


@pytest.mark.parametrize(
    ("num_pairs", "accuracy", "num_groups", "message"),
    [
        (100, 97.0, 4, r"fraction in \[0, 1\], got 97.0"),
        (0, 0.97, 4, "num_pairs_per_group=0"),
        (100, 0.97, 1, "num_groups=1"),
    ],
)
def test_refuses_a_noise_floor_of_nothing(
    num_pairs: int, accuracy: float, num_groups: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        noise_floor(num_pairs, accuracy, num_groups=num_groups)
