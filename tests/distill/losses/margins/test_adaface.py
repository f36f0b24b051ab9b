"""AdaFace by hand, at qualities of all kinds."""

import math

import pytest
import torch
from torch import Tensor

from distill.losses.margins import AdaFace, AdaFaceSettings

THETA = math.acos(0.6)


def target_logits(margin: AdaFace, norms: list[float] | Tensor) -> Tensor:
    """Logits, without the scale, of faces whose cosine with their class is 0.6."""
    norm_B = torch.as_tensor(norms)
    cosine_BC = torch.tensor([[0.6, 0.2]]).repeat(len(norm_B), 1)
    labels_B = torch.zeros(len(norm_B), dtype=torch.int64)
    return margin(cosine_BC, labels_B, norm_B=norm_B)[:, 0] / margin.scale


def known(*, mean: float, std: float) -> AdaFace:
    """In evaluation mode, after batches of this mean and deviation."""
    margin = AdaFaceSettings().build().eval()
    margin.load_state_dict({"norm_mean": torch.tensor(mean), "norm_std": torch.tensor(std)})
    return margin


@pytest.mark.parametrize(
    ("norm", "g_angle", "g_add"),
    [
        # At the mean k = 0: CosFace.
        (10.0, 0.0, 0.4),
        # 0.333 * 3 / 2.001 = 0.499250: a better face than most.
        (13.0, -0.4 * 0.499250, 0.4 + 0.4 * 0.499250),
        # 0.333 * -4 / 2.001 = -0.665667: a worse one.
        (6.0, 0.4 * 0.665667, 0.4 - 0.4 * 0.665667),
        # k = 1: the angle narrows by m, and 2 m are taken off.
        (50.0, -0.4, 0.8),
        # k = -1: ArcFace.
        (1.0, 0.4, 0.0),
    ],
)
def test_spends_the_margin_by_quality(norm: float, g_angle: float, g_add: float) -> None:
    (logit,) = target_logits(known(mean=10, std=2), [norm]).tolist()
    assert logit == pytest.approx(math.cos(THETA + g_angle) - g_add, abs=1e-5)


def test_narrowing_stops_at_the_centre() -> None:
    margin = known(mean=10, std=2)
    logits = margin(torch.tensor([[math.cos(0.1), 0.2]]), torch.tensor([0]), norm_B=torch.tensor([50.0]))
    assert logits[0, 0].item() / 64 == pytest.approx(1 - 0.8, abs=1e-5)


def test_starts_at_the_published_statistics() -> None:
    # 0.333 * (80 - 20) / 100.001 = 0.199798.
    (logit,) = target_logits(AdaFaceSettings().build().eval(), [80.0]).tolist()
    assert logit == pytest.approx(math.cos(THETA - 0.4 * 0.199798) - 0.4 - 0.4 * 0.199798, abs=1e-5)


def test_statistics_follow_the_batches_slowly() -> None:
    margin = AdaFaceSettings().build()
    target_logits(margin, [10.0, 14.0, 18.0])
    # The mean is 14 and the sample deviation 4: 0.99 * 20 + 0.14 and 0.99 * 100 + 0.04.
    assert margin.norm_mean.item() == pytest.approx(19.94)
    assert margin.norm_std.item() == pytest.approx(99.04)
    target_logits(margin, [10.0, 14.0, 18.0])
    assert margin.norm_mean.item() == pytest.approx(0.99 * 19.94 + 0.14)
    assert margin.norm_std.item() == pytest.approx(0.99 * 99.04 + 0.04)


def test_the_batch_at_hand_counts_already() -> None:
    logits = target_logits(AdaFaceSettings(t_alpha=1.0).build(), [10.0, 14.0, 18.0])
    k = 0.333 * 4 / 4.001
    expected = [math.cos(THETA - 0.4 * q) - 0.4 - 0.4 * q for q in (-k, 0.0, k)]
    assert logits.tolist() == pytest.approx(expected, abs=1e-5)


def test_norms_are_clipped_before_they_count() -> None:
    margin = AdaFaceSettings(t_alpha=1.0).build()
    target_logits(margin, [0.0, 200.0])
    assert margin.norm_mean.item() == pytest.approx((0.001 + 100) / 2)
    assert margin.norm_std.item() == pytest.approx((100 - 0.001) / math.sqrt(2))


def test_one_face_moves_the_mean_but_has_no_deviation() -> None:
    margin = AdaFaceSettings().build()
    target_logits(margin, [10.0])
    assert margin.norm_mean.item() == pytest.approx(19.9)
    assert margin.norm_std.item() == 100


def test_no_gradient_reaches_the_norm() -> None:
    norm = torch.tensor([9.0, 11.0], requires_grad=True)
    assert not target_logits(known(mean=10, std=2), norm).requires_grad


def test_a_concentration_of_zero_leaves_cosface() -> None:
    logits = target_logits(AdaFaceSettings(h=0.0).build(), [1.0, 50.0, 90.0])
    assert logits.tolist() == pytest.approx([0.2] * 3, abs=1e-5)
