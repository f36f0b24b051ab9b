"""MagFace by hand: its margin, its regulariser, and where they push norms."""

import math

import pytest
import torch
from pydantic import ValidationError

from distill.losses.margins import MagFaceSettings


@pytest.mark.parametrize(
    ("norm", "expected_margin"),
    [(10.0, 0.45), (110.0, 0.8), (60.0, 0.625), (35.0, 0.5375), (2.0, 0.45), (500.0, 0.8)],
)
def test_margin_grows_with_the_norm(norm: float, expected_margin: float) -> None:
    margin = MagFaceSettings().build()
    logits = margin(torch.tensor([[0.6, -0.1]]), torch.tensor([0]), norm_B=torch.tensor([norm]))
    expected = [64 * math.cos(math.acos(0.6) + expected_margin), -6.4]
    assert logits[0].tolist() == pytest.approx(expected, abs=1e-3)


def test_regulariser_by_hand() -> None:
    # 10 / 12,100 + 1 / 10 = 0.100826 and 110 / 12,100 + 1 / 110 = 0.018182: 35 times their mean.
    penalty = MagFaceSettings().build().regularizer(torch.tensor([10.0, 110.0]))
    assert penalty.item() == pytest.approx(35 * (0.1008264 + 0.0181818) / 2, rel=1e-5)


def test_regulariser_counts_norms_outside_as_the_nearest_inside() -> None:
    margin = MagFaceSettings().build()
    inside = margin.regularizer(torch.tensor([10.0, 110.0]))
    assert torch.equal(margin.regularizer(torch.tensor([0.0, 900.0])), inside)


def test_regulariser_asks_for_longer_embeddings() -> None:
    norm = torch.tensor([5.0, 20.0, 80.0, 200.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(MagFaceSettings().build().regularizer(norm), norm)
    # 35 / 4 (1 / 110^2 - 1 / a^2) inside, nothing outside.
    expected = [0.0, 8.75 * (1 / 12_100 - 1 / 400), 8.75 * (1 / 12_100 - 1 / 6_400), 0.0]
    assert gradient.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_margin_makes_longer_embeddings_expensive() -> None:
    norm = torch.tensor([60.0], requires_grad=True)
    logits = MagFaceSettings().build()(torch.tensor([[0.6, 0.0]]), torch.tensor([0]), norm_B=norm)
    (gradient,) = torch.autograd.grad(logits[0, 0], norm)
    # The margin's slope is 0.35 / 100.
    expected = -64 * math.sin(math.acos(0.6) + 0.625) * 0.0035
    assert gradient.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"l_a": 20, "u_a": 20}, r"u_a must be above l_a \(20.0\), got 20.0"),
        ({"l_m": 0.6, "u_m": 0.5}, r"u_m must be at least l_m \(0.6\), got 0.5"),
    ],
)
def test_refuses_a_margin_that_does_not_grow(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MagFaceSettings.model_validate(values)
