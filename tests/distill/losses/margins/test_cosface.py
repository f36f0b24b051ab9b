"""CosFace by hand."""

import pytest
import torch

from distill.losses.margins import CosFaceSettings


def test_takes_the_margin_off_the_target() -> None:
    cosine = torch.tensor([[0.6, 0.8], [-0.9, 0.1]])
    logits = CosFaceSettings(scale=10).build()(cosine, torch.tensor([0, 0]), norm_B=torch.ones(2))
    # 10 (0.6 - 0.35) and 10 (-0.9 - 0.35); the other class keeps 10 cos.
    assert logits[0].tolist() == pytest.approx([2.5, 8.0])
    assert logits[1].tolist() == pytest.approx([-12.5, 1.0])


def test_gradient_is_the_scale_wherever_the_target_is() -> None:
    cosine = torch.tensor([[-1.0, 0.3], [0.5, 1.0]], requires_grad=True)
    logits = CosFaceSettings(scale=16).build()(cosine, torch.tensor([0, 1]), norm_B=torch.ones(2))
    (gradient,) = torch.autograd.grad(logits.sum(), cosine)
    assert torch.equal(gradient, torch.full((2, 2), 16.0))
