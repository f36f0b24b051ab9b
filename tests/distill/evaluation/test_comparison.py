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
                    f"shared_threshold_accuracy_{group}": right_P[pairs.group_P == index]
                    .repeat_interleave(weight_P[pairs.group_P == index])
                    .double()
                    .mean()
                    .item()
                    for index, group in enumerate(pairs.group_names)
                }
            )
        for name in naive:
            naive[name].append(values[0][name] - values[1][name])
    assert len(naive) == 6
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


def test_folds_stand_in_where_nobody_knows_who_is_on_the_images() -> None:
    rng = torch.Generator().manual_seed(4)
    pairs = people(40, pairs_each=4, rng=rng)
    similarities = two_networks(pairs, rng=rng, better_by=0.3)
    unknown = replace(pairs, identity_N=None)
    first, second = (resampled_metrics(similarity_P, unknown) for similarity_P in similarities)
    assert list(first) == ["verification_accuracy"]

    by_hand = [
        ten_fold(2 * (1 - similarity_P), pairs.is_genuine_P).accuracies.tolist()
        for similarity_P in similarities
    ]
    differences = [a - b for a, b in zip(*by_hand, strict=True)]
    difference = first["verification_accuracy"] - second["verification_accuracy"]
    margin = 2.262 * statistics.stdev(differences) / math.sqrt(10)
    assert difference.value == pytest.approx(statistics.mean(differences))
    assert difference.interval.low == pytest.approx(statistics.mean(differences) - margin)
    assert difference.interval.high == pytest.approx(statistics.mean(differences) + margin)
    assert difference.is_real


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
