"""The paired bootstrap: copied pairs one by one, and how often it cries wolf over networks that are alike."""

import math
import statistics
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distill.evaluation import (
    area_under_curve,
    equal_error_rate,
    identity_weights,
    resampled_metrics,
    roc,
    tar_at_far,
    ten_fold,
    verification_metrics,
    weighted_eer_and_auc,
)
from distill.evaluation.comparison import student_t
from distill.faces import VerificationPairs


def people(num_people: int, *, pairs_each: int, rng: torch.Generator, groups: int = 1) -> VerificationPairs:
    """Two images of each person: genuine pairs of both, and as many impostor pairs within his group."""
    person_P = torch.arange(num_people).repeat_interleave(pairs_each)
    step_P = torch.randint(1, num_people // groups, person_P.shape, generator=rng)
    other_P = (person_P + groups * step_P) % num_people  # of the same group, and never himself
    order_P = torch.randperm(2 * len(person_P), generator=rng)
    left_P = torch.cat([2 * person_P, 2 * person_P])[order_P]
    identity_N = torch.arange(num_people).repeat_interleave(2)
    return VerificationPairs(
        name="validation",
        images_NCHW=torch.zeros(2 * num_people, 3, 1, 1, dtype=torch.uint8),
        left_P=left_P,
        right_P=torch.cat([2 * person_P + 1, 2 * other_P])[order_P],
        is_genuine_P=torch.arange(len(order_P))[order_P] < len(person_P),
        group_P=identity_N[left_P] % groups,
        group_names=tuple(f"group_{name}" for name in "abcd"[:groups]) if groups > 1 else (),
        identity_N=identity_N,
    )


def two_networks(
    pairs: VerificationPairs, *, rng: torch.Generator, better_by: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Similarities of two networks that are drawn alike: some people are hard for both, some for one."""
    identity_N = pairs.people()
    left_P, right_P = identity_N[pairs.left_P], identity_N[pairs.right_P]
    for_both_I = 0.15 * torch.randn(len(identity_N), generator=rng).double()

    def network(separation: float) -> Tensor:
        ease_I = for_both_I + 0.1 * torch.randn(len(identity_N), generator=rng).double()
        noise_P = 0.12 * torch.randn(len(left_P), generator=rng).double()
        similarity_P = separation * pairs.is_genuine_P + ease_I[left_P] + 0.7 * ease_I[right_P] + noise_P
        return similarity_P.clamp(-1, 1)

    return network(0.25 + better_by), network(0.25)


def test_differences_are_those_of_pairs_that_are_copied_one_by_one() -> None:
    rng = torch.Generator().manual_seed(0)
    pairs = people(40, pairs_each=4, rng=rng, groups=2)
    first_P, second_P = (similarity_P.mul(20).round() / 20 for similarity_P in two_networks(pairs, rng=rng))
    first, second = (resampled_metrics(s_P, pairs, resamples=15, seed=3) for s_P in (first_P, second_P))

    identity_N = pairs.people()
    weight_RP = identity_weights(
        identity_N[pairs.left_P],
        identity_N[pairs.right_P],
        resamples=15,
        seed=3,
        stratum_P=pairs.group_P,
    )
    naive: dict[str, list[float]] = {name: [] for name in first}
    for weight_P in weight_RP.long():
        values = []
        for similarity_P in (first_P, second_P):
            right_P = ten_fold(2 * (1 - similarity_P), pairs.is_genuine_P).is_right
            copies = similarity_P.repeat_interleave(weight_P), pairs.is_genuine_P.repeat_interleave(weight_P)
            values.append(
                {
                    "verification_accuracy": right_P.repeat_interleave(weight_P).double().mean().item(),
                    "eer": equal_error_rate(*roc(*copies)),
                    "auc": area_under_curve(*roc(*copies)),
                    "tar_at_far_1e-1": tar_at_far(*copies, far=0.1).tar,
                }
                | {
                    f"{name}_{group}": of_P.repeat_interleave(weight_P[pairs.group_P == index])
                    .double()
                    .mean()
                    .item()
                    for index, group in enumerate(pairs.group_names)
                    for name, of_P in {
                        "shared_threshold_accuracy": right_P[pairs.group_P == index],
                        "verification_accuracy": ten_fold(
                            2 * (1 - similarity_P[pairs.group_P == index]),
                            pairs.is_genuine_P[pairs.group_P == index],
                        ).is_right,
                    }.items()
                }
            )
        for name in naive:
            naive[name].append(values[0][name] - values[1][name])
    assert len(naive) == 8
    for name, differences in naive.items():
        assert (first[name] - second[name]).value_R.tolist() == pytest.approx(differences, abs=1e-12), name


def test_values_are_those_of_the_verification_metrics() -> None:
    rng = torch.Generator().manual_seed(1)
    pairs = people(40, pairs_each=4, rng=rng, groups=2)
    similarity_P, _ = two_networks(pairs, rng=rng)
    metrics = verification_metrics(similarity_P, pairs, prefix="validation")
    for name, resampled in resampled_metrics(similarity_P, pairs, resamples=2).items():
        assert resampled.value == metrics[f"validation/{name}"]


def test_networks_that_are_alike_are_seldom_told_apart_and_others_mostly() -> None:
    told_apart = {0.0: 0, 0.2: 0}
    for better_by in told_apart:
        for seed in range(100):
            rng = torch.Generator().manual_seed(seed)
            pairs = people(60, pairs_each=4, rng=rng)
            first, second = (
                resampled_metrics(similarity_P, pairs, resamples=200)["verification_accuracy"]
                for similarity_P in two_networks(pairs, rng=rng, better_by=better_by)
            )
            told_apart[better_by] += (first - second).is_real
    assert 1 <= told_apart[0.0] <= 10  # of 100, where 5 are to be expected
    assert told_apart[0.2] >= 80


def test_a_network_does_not_differ_from_itself() -> None:
    rng = torch.Generator().manual_seed(2)
    pairs = people(40, pairs_each=4, rng=rng)
    similarity_P, _ = two_networks(pairs, rng=rng)
    accuracy = resampled_metrics(similarity_P, pairs, resamples=20)["verification_accuracy"]
    again = resampled_metrics(similarity_P, pairs, resamples=20)["verification_accuracy"]
    assert (accuracy - again).interval.low == (accuracy - again).interval.high == 0
    assert not (accuracy - again).is_real


def test_the_other_way_round_a_difference_has_the_other_sign_and_more_confidence_is_wider() -> None:
    rng = torch.Generator().manual_seed(3)
    pairs = people(40, pairs_each=4, rng=rng)
    first, second = (
        resampled_metrics(similarity_P, pairs, resamples=200)["verification_accuracy"]
        for similarity_P in two_networks(pairs, rng=rng, better_by=0.3)
    )
    ahead, behind = (first - second).interval, (second - first).interval
    assert 0 < ahead.low < ahead.high
    assert (behind.low, behind.high) == pytest.approx((-ahead.high, -ahead.low))
    for apart in (first - second, replace(first - second, value_R=torch.arange(10).double(), over="folds")):
        narrow, wide = apart.interval_of(0.5), apart.interval_of(0.99)
        assert wide.low < narrow.low < narrow.high < wide.high
        assert apart.interval_of(0.95) == apart.interval


def test_folds_stand_in_where_nobody_knows_who_is_on_the_images() -> None:
    rng = torch.Generator().manual_seed(4)
    pairs = people(40, pairs_each=4, rng=rng)
    similarities = two_networks(pairs, rng=rng, better_by=0.3)
    unknown = replace(pairs, identity_N=None)
    first, second = (resampled_metrics(similarity_P, unknown) for similarity_P in similarities)

    by_hand = [
        ten_fold(2 * (1 - similarity_P), pairs.is_genuine_P).accuracies.tolist()
        for similarity_P in similarities
    ]
    differences = [a - b for a, b in zip(*by_hand, strict=True)]
    difference = first["verification_accuracy"] - second["verification_accuracy"]
    margin = 2.262 * statistics.stdev(differences) / math.sqrt(10)
    assert difference.over == "folds"
    assert difference.value == pytest.approx(statistics.mean(differences))
    assert difference.interval.low == pytest.approx(statistics.mean(differences) - margin, abs=1e-5)
    assert difference.interval.high == pytest.approx(statistics.mean(differences) + margin, abs=1e-5)
    assert difference.is_real


def test_what_a_fold_adds_is_what_is_lost_without_it() -> None:
    rng = torch.Generator().manual_seed(6)
    pairs = people(40, pairs_each=8, rng=rng, groups=2)
    similarity_P, _ = two_networks(pairs, rng=rng)
    found = resampled_metrics(similarity_P, replace(pairs, identity_N=None))
    num_seen, fold_P = [0, 0], []
    for group in pairs.group_P.tolist():  # 320 pairs of each group: 32 a fold
        fold_P.append(num_seen[group] // 32)
        num_seen[group] += 1
    for fold in range(10):
        kept_P = torch.tensor(fold_P) != fold
        rest = similarity_P[kept_P], pairs.is_genuine_P[kept_P]
        for name, metric in {
            "eer": lambda s_P, g_P: equal_error_rate(*roc(s_P, g_P)),
            "auc": lambda s_P, g_P: area_under_curve(*roc(s_P, g_P)),
            "tar_at_far_1e-1": lambda s_P, g_P: tar_at_far(s_P, g_P, far=0.1).tar,
        }.items():
            expected = 10 * metric(similarity_P, pairs.is_genuine_P) - 9 * metric(*rest)
            assert found[name].value_R[fold].item() == pytest.approx(expected), name
    for index, group in enumerate(pairs.group_names):
        of_P = pairs.group_P == index
        own = ten_fold(2 * (1 - similarity_P[of_P]), pairs.is_genuine_P[of_P])
        of_group = found[f"verification_accuracy_{group}"].value_R
        assert of_group.tolist() == pytest.approx(own.accuracies.tolist())


@pytest.mark.parametrize(("confidence", "margin"), [(0.5, 0.703), (0.9, 1.833), (0.95, 2.262), (0.99, 3.250)])
def test_nine_degrees_of_freedom_are_those_of_the_tables(confidence: float, margin: float) -> None:
    assert student_t(confidence) == pytest.approx(margin, abs=5e-4)


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_a_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence must be a fraction in"):
        student_t(confidence)


def test_pairs_of_one_kind_have_an_accuracy_alone() -> None:
    rng = torch.Generator().manual_seed(5)
    pairs = people(40, pairs_each=4, rng=rng)
    genuine_P = pairs.is_genuine_P
    alike = replace(
        pairs,
        left_P=pairs.left_P[genuine_P],
        right_P=pairs.right_P[genuine_P],
        is_genuine_P=genuine_P[genuine_P],
        group_P=pairs.group_P[genuine_P],
    )
    similarity_P = torch.rand(len(alike.left_P), generator=rng).double()
    assert list(resampled_metrics(similarity_P, alike, resamples=5)) == ["verification_accuracy"]


def test_a_resample_without_a_kind_of_pairs_has_no_curve() -> None:
    similarity_P, is_genuine_P = torch.tensor([0.9, 0.8, 0.1, 0.2]), torch.tensor([True, True, False, False])
    weight_RP = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [1.0, 2.0, 1.0, 1.0]])
    eer_R, auc_R = weighted_eer_and_auc(similarity_P, is_genuine_P, weight_RP)
    assert eer_R.isnan().tolist() == auc_R.isnan().tolist() == [True, True, False]
    assert (eer_R[2].item(), auc_R[2].item()) == (0, 1)
