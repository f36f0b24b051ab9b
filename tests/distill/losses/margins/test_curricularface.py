"""CurricularFace by hand, with hard and easy classes."""

import math

import pytest
import torch

from distill.losses.margins import CurricularFaceSettings

LABEL_0 = torch.tensor([0])
NORM = torch.tensor([7.0])


def test_hard_classes_are_weighted_and_easy_ones_are_not() -> None:
    margin = CurricularFaceSettings().build().eval()
    margin.load_state_dict({"t": torch.tensor(0.25)})
    logits = margin(torch.tensor([[0.6, 0.9, 0.2, 0.1, -0.3]]), LABEL_0, norm_B=NORM)
    # cos(theta + 0.5) is 0.143009: 0.9 and 0.2 are above it. 0.9 (0.25 + 0.9) and 0.2 (0.25 + 0.2).
    expected = [64 * value for value in (0.143009, 1.035, 0.09, 0.1, -0.3)]
    assert logits[0].tolist() == pytest.approx(expected, abs=1e-3)


def test_a_fresh_student_is_spared_the_hard_classes() -> None:
    logits = CurricularFaceSettings().build().eval()(torch.tensor([[0.6, 0.5]]), LABEL_0, norm_B=NORM)
    assert logits[0, 1].item() == pytest.approx(64 * 0.25)


def test_t_follows_the_target_cosines_slowly() -> None:
    margin = CurricularFaceSettings().build()
    cosine, labels = torch.tensor([[0.6, 0.9], [-0.7, 0.2]]), torch.tensor([0, 1])
    margin(cosine, labels, norm_B=torch.ones(2))
    assert margin.t.item() == pytest.approx(0.004)
    margin(cosine, labels, norm_B=torch.ones(2))
    assert margin.t.item() == pytest.approx(0.99 * 0.004 + 0.01 * 0.4)


def test_the_batch_at_hand_counts_already() -> None:
    margin = CurricularFaceSettings(t_alpha=1.0).build()
    logits = margin(torch.tensor([[0.6, 0.5]]), LABEL_0, norm_B=NORM)
    assert logits[0, 1].item() == pytest.approx(64 * 0.5 * (0.6 + 0.5), rel=1e-5)


def test_no_gradient_reaches_t() -> None:
    margin = CurricularFaceSettings(t_alpha=1.0, scale=1.0).build()
    cosine = torch.tensor([[0.6, 0.5, -0.1]], requires_grad=True)
    logits = margin(cosine, LABEL_0, norm_B=NORM)
    (gradient,) = torch.autograd.grad(logits[0, 1], cosine)
    # The derivative of cos (t + cos) by cos is t + 2 cos; by the target's cosine it would be cos.
    assert gradient[0].tolist() == pytest.approx([0.0, 0.6 + 2 * 0.5, 0.0])


def test_a_class_past_pi_is_weighted_too() -> None:
    target = math.cos(3.0)
    logits = CurricularFaceSettings().build().eval()(torch.tensor([[target, -0.99]]), LABEL_0, norm_B=NORM)
    # The target falls to cos(3) - 0.5 sin(0.5) = -1.23; every class scores above it.
    expected = [64 * (target - 0.5 * math.sin(0.5)), 64 * 0.99**2]
    assert logits[0].tolist() == pytest.approx(expected, rel=1e-5)
