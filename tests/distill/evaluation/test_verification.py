"""Verification metrics against naive readings of their protocols."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import DivergenceError
from distill.evaluation import (
    area_under_curve,
    det,
    embed_pairs,
    equal_error_rate,
    evaluate_verification,
    pair_similarity,
    roc,
    tar_at_far,
    ten_fold,
)
from distill.evaluation.verification import THRESHOLDS_T, finest_far
from distill.faces import VerificationPairs
from distill.students import BridgeTinySettings


def scores(num_pairs: int, *, seed: int = 0, overlap: float = 1.0) -> tuple[Tensor, Tensor]:
    """Squared distances of genuine and impostor pairs, in random order; a third lies on thresholds."""
    rng = torch.Generator().manual_seed(seed)
    is_genuine_P = torch.rand(num_pairs, generator=rng) < 0.5
    noise_P = overlap * torch.randn(num_pairs, generator=rng)
    distance_P = torch.where(is_genuine_P, 1.0 + 0.35 * noise_P, 1.8 + 0.25 * noise_P).clamp(0, 4).double()
    return torch.where(
        torch.rand(num_pairs, generator=rng) < 0.3, (100 * distance_P).round() / 100, distance_P
    ), is_genuine_P


def naive_ten_fold(distances: np.ndarray, is_genuine: np.ndarray) -> tuple[list[float], list[float]]:
    """The protocol, threshold by threshold and fold by fold."""
    num_pairs = len(distances)
    sizes = np.full(10, num_pairs // 10)
    sizes[: num_pairs % 10] += 1
    accuracies, chosen, start = [], [], 0
    for size in sizes:
        held_out = np.arange(start, start + size)
        others = np.setdiff1d(np.arange(num_pairs), held_out)
        start += size
        best_accuracy, best_threshold = -1.0, 0.0
        for threshold in np.arange(0, 4, 0.01):
            accuracy = np.mean((distances[others] < threshold) == is_genuine[others])
            if accuracy > best_accuracy:
                best_accuracy, best_threshold = accuracy, threshold
        accuracies.append(float(np.mean((distances[held_out] < best_threshold) == is_genuine[held_out])))
        chosen.append(float(best_threshold))
    return accuracies, chosen


def make_pairs(*, num_images: int = 60, num_pairs: int = 400, size_px: int = 16) -> VerificationPairs:
    """Blurred noise: each person has a picture of his own, each photograph of him noise on top."""
    rng = torch.Generator().manual_seed(0)
    identity_N = torch.arange(num_images) // 3
    people = F.interpolate(torch.rand(num_images // 3, 3, 4, 4, generator=rng), size=size_px, mode="bilinear")
    photographs = people[identity_N] + 0.1 * torch.randn(num_images, 3, size_px, size_px, generator=rng)
    left_P = torch.randint(num_images, (num_pairs,), generator=rng)
    stranger_P = (left_P + torch.randint(3, num_images - 3, (num_pairs,), generator=rng)) % num_images
    relative_P = left_P - left_P % 3 + (left_P + 1) % 3
    right_P = torch.where(torch.arange(num_pairs) % 2 == 0, relative_P, stranger_P)
    return VerificationPairs(
        name="validation",
        images_NCHW=(photographs.clamp(0, 1) * 255).byte(),
        left_P=left_P,
        right_P=right_P,
        is_genuine_P=identity_N[left_P] == identity_N[right_P],
        group_P=torch.arange(num_pairs) // 2 % 2,
        group_names=("east", "west"),
        identity_N=identity_N,
    )


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return BridgeTinySettings().build(embedding_dim=16, size_px=16)


@pytest.mark.parametrize("num_pairs", [10, 19, 403, 6000])
def test_ten_fold_matches_the_naive_protocol(num_pairs: int) -> None:
    distance_P, is_genuine_P = scores(num_pairs)
    accuracies, thresholds = naive_ten_fold(distance_P.numpy(), is_genuine_P.numpy())
    result = ten_fold(distance_P, is_genuine_P)
    assert result.accuracies.tolist() == accuracies
    assert result.thresholds.tolist() == thresholds
    assert result.accuracy == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert result.accuracy_std == pytest.approx(np.std(accuracies), abs=1e-12)


def test_ten_fold_says_which_pairs_were_right() -> None:
    result = ten_fold(*scores(400))
    torch.testing.assert_close(result.is_right.view(10, 40).double().mean(1), result.accuracies)


def test_thresholds_are_those_of_the_protocol() -> None:
    assert THRESHOLDS_T.tolist() == np.arange(0, 4, 0.01).tolist()


def test_a_distance_on_the_threshold_is_refused() -> None:
    is_genuine_P = torch.arange(40) % 2 == 0
    distance_P = torch.where(is_genuine_P, THRESHOLDS_T[50], THRESHOLDS_T[51])
    result = ten_fold(distance_P, is_genuine_P)
    assert result.accuracy == 1.0
    assert result.thresholds.tolist() == [THRESHOLDS_T[51].item()] * 10


def test_folds_are_contiguous() -> None:
    distance_P, is_genuine_P = torch.tensor([0.5, 1.5]).repeat(50), torch.tensor([True, False]).repeat(50)
    is_genuine_P[:10] = ~is_genuine_P[:10]
    assert ten_fold(distance_P, is_genuine_P).accuracies.tolist() == [0.0] + [1.0] * 9


def test_ten_fold_refuses_fewer_pairs_than_folds() -> None:
    with pytest.raises(ValueError, match="at least 10 pairs, got 9"):
        ten_fold(*scores(9))


def test_tar_at_far_worked_example() -> None:
    impostor = torch.linspace(0.0, 0.9, 10)  # 0.0, 0.1, ... 0.9
    genuine = torch.tensor([0.75, 0.85, 0.95])
    point = tar_at_far(torch.cat([genuine, impostor]), torch.arange(13) < 3, far=0.1)
    # one impostor in ten may pass (0.9), so the threshold is 0.8: 0.85 and 0.95 are accepted
    assert point.tar == pytest.approx(2 / 3)
    assert point.far == pytest.approx(0.1)
    assert point.num_impostors == 10


def test_tied_impostors_are_all_refused_rather_than_exceed_the_far() -> None:
    similarity_P = torch.tensor([0.95, 0.5] + [0.9] * 5 + [0.1] * 5)
    point = tar_at_far(similarity_P, torch.arange(12) < 2, far=0.2)
    assert (point.tar, point.far) == (0.5, 0.0)


@pytest.mark.parametrize("far", [0.01, 0.05, 0.3])
def test_realised_far_never_exceeds_the_one_asked_for(far: float) -> None:
    distance_P, is_genuine_P = scores(1000)
    assert tar_at_far(1 - distance_P / 2, is_genuine_P, far=far).far <= far


def test_refuses_a_far_it_cannot_measure() -> None:
    with pytest.raises(ValueError, match=r"far=0.0001 needs 10,000 impostor pairs, got 3,000"):
        tar_at_far(torch.rand(6000), torch.arange(6000) < 3000, far=1e-4)


def test_refuses_a_far_that_is_a_percentage() -> None:
    with pytest.raises(ValueError, match=r"far must be a fraction in \(0, 1\), got 1.0"):
        tar_at_far(torch.rand(100), torch.arange(100) < 50, far=1.0)


def test_refuses_a_tar_without_genuine_pairs() -> None:
    with pytest.raises(ValueError, match="needs a genuine pair"):
        tar_at_far(torch.rand(100), torch.zeros(100, dtype=torch.bool), far=0.1)


@pytest.mark.parametrize(
    ("num_impostors", "k"), [(0, None), (99, None), (100, 1), (999, 1), (1000, 2), (3000, 2)]
)
def test_the_finest_far_allows_ten_false_accepts(num_impostors: int, k: int | None) -> None:
    assert finest_far(num_impostors) == k


def test_auc_is_the_share_of_genuine_impostor_couples_in_order() -> None:
    distance_P, is_genuine_P = scores(300)
    similarity_P = 1 - distance_P / 2
    genuine, impostor = similarity_P[is_genuine_P][:, None], similarity_P[~is_genuine_P][None]
    expected = ((genuine > impostor).double() + 0.5 * (genuine == impostor).double()).mean().item()
    assert area_under_curve(*roc(similarity_P, is_genuine_P)) == pytest.approx(expected, abs=1e-12)


def test_det_worked_example() -> None:
    similarity_P, is_genuine_P = torch.tensor([0.9, 0.8, 0.8, 0.3]), torch.tensor([1, 1, 0, 0]).bool()
    far_S, frr_S = det(similarity_P, is_genuine_P)
    # above 0.9 nobody, then one genuine pair, then one of each at once, then the last impostor
    assert far_S.tolist() == [0.0, 0.0, 0.5, 1.0]
    assert frr_S.tolist() == [1.0, 0.5, 0.0, 0.0]


def test_a_det_needs_both_kinds_of_pairs() -> None:
    with pytest.raises(ValueError, match="got 0 genuine, 5 impostor"):
        det(torch.rand(5), torch.zeros(5, dtype=torch.bool))


def test_eer_lies_between_the_errors_on_both_sides_of_the_crossing() -> None:
    similarity_P, is_genuine_P = (
        torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]),
        torch.tensor([1, 1, 0, 1, 0, 0]).bool(),
    )
    # accepting three: FAR = FRR = 1/3
    assert equal_error_rate(*roc(similarity_P, is_genuine_P)) == pytest.approx(1 / 3)


def test_eer_is_interpolated() -> None:
    similarity_P, is_genuine_P = torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([1, 1, 0, 0]).bool()
    # (FAR, FRR) goes from (0, 1/2) straight to (1/2, 0)
    assert equal_error_rate(*roc(similarity_P, is_genuine_P)) == pytest.approx(1 / 4)


@pytest.mark.parametrize(("sign", "eer", "auc"), [(1.0, 0.0, 1.0), (-1.0, 1.0, 0.0)])
def test_perfect_and_inverted_scores(sign: float, eer: float, auc: float) -> None:
    is_genuine_P = torch.arange(20) < 10
    curve = roc(sign * (is_genuine_P.double() + torch.arange(20) / 100), is_genuine_P)
    assert (equal_error_rate(*curve), area_under_curve(*curve)) == pytest.approx((eer, auc))


def test_pooled_metrics_see_only_the_order() -> None:
    distance_P, is_genuine_P = scores(500)
    assert equal_error_rate(*roc(-distance_P, is_genuine_P)) == equal_error_rate(
        *roc(-(distance_P**3), is_genuine_P)
    )


def test_a_roc_needs_both_kinds_of_pairs() -> None:
    with pytest.raises(ValueError, match="got 5 genuine, 0 impostor"):
        roc(torch.rand(5), torch.ones(5, dtype=torch.bool))


def test_embeddings_are_of_face_and_mirror_image_together(network: nn.Module) -> None:
    pairs = make_pairs()
    faces = (pairs.images_NCHW.double() / 255 - 0.5).float() / 0.5
    with torch.no_grad():
        raw_ND = network.eval()(faces) + network(torch.flip(faces, dims=[3]))
    expected = raw_ND / raw_ND.norm(dim=1, keepdim=True)
    torch.testing.assert_close(embed_pairs(network, pairs, batch_size=7), expected, rtol=1e-4, atol=1e-5)


def test_similarity_of_pairs_is_the_cosine_of_their_images() -> None:
    pairs = make_pairs()
    unit_ND = F.normalize(torch.randn(len(pairs.images_NCHW), 8, generator=torch.Generator().manual_seed(0)))
    similarity_P = pair_similarity(unit_ND, pairs)
    expected = [
        sum(a * b for a, b in zip(unit_ND[left].tolist(), unit_ND[right].tolist(), strict=True))
        for left, right in zip(pairs.left_P.tolist(), pairs.right_P.tolist(), strict=True)
    ]
    assert similarity_P.dtype == torch.float64
    assert similarity_P.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_mirrored_face_has_the_same_embedding(network: nn.Module) -> None:
    pairs = make_pairs()
    mirrored = replace(pairs, images_NCHW=pairs.images_NCHW.flip(-1))
    torch.testing.assert_close(embed_pairs(network, pairs), embed_pairs(network, mirrored))


def test_refuses_a_network_that_diverged() -> None:
    torch.manual_seed(0)
    diverged = BridgeTinySettings().build(embedding_dim=16, size_px=16)
    nn.init.constant_(diverged.fc.bias, float("nan"))
    with pytest.raises(DivergenceError, match="not finite to faces of validation"):
        embed_pairs(diverged, make_pairs())


def test_evaluation_reports_every_metric_of_pairs_and_groups(network: nn.Module) -> None:
    metrics = evaluate_verification(network, make_pairs(), prefix="validation")
    assert list(metrics) == [
        "validation/verification_accuracy",
        "validation/verification_accuracy_std",
        "validation/eer",
        "validation/auc",
        "validation/tar_at_far_1e-1",
        "validation/verification_accuracy_east",
        "validation/shared_threshold_accuracy_east",
        "validation/verification_accuracy_west",
        "validation/shared_threshold_accuracy_west",
    ]
    assert metrics["validation/verification_accuracy"] > 0.7


def test_shared_threshold_accuracies_average_to_the_accuracy_of_all(network: nn.Module) -> None:
    metrics = evaluate_verification(network, make_pairs(), prefix="v")
    groups = [metrics[f"v/shared_threshold_accuracy_{group}"] for group in ("east", "west")]
    assert np.mean(groups) == pytest.approx(metrics["v/verification_accuracy"])


def test_evaluation_leaves_the_network_as_it_found_it(network: nn.Module) -> None:
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    evaluate_verification(network, make_pairs(), prefix="validation")
    assert all(module.training for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
