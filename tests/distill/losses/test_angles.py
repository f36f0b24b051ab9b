"""Widened angles, against trigonometry by hand."""

import math

import pytest
import torch

from distill.losses.angles import widened


@pytest.mark.parametrize("margin", [-0.4, 0.0, 0.3, 0.5])
@pytest.mark.parametrize("angle", [0.5, 1.0, 1.5, 2.5])
def test_adds_the_margin_to_the_angle(angle: float, margin: float) -> None:
    cosine = torch.tensor([math.cos(angle)], dtype=torch.float64)
    assert widened(cosine, margin).item() == pytest.approx(math.cos(angle + margin), abs=1e-9)


def test_margins_may_differ_by_face() -> None:
    cosine = torch.tensor([math.cos(1.0), math.cos(1.0)], dtype=torch.float64)
    expected = [math.cos(1.2), math.cos(0.8)]
    assert widened(cosine, torch.tensor([0.2, -0.2])).tolist() == pytest.approx(expected, abs=1e-7)


def test_never_rewards_a_worse_angle() -> None:
    angles = torch.linspace(0.01, math.pi - 0.01, 500, dtype=torch.float64)
    for margin in (0.0, 0.3, 0.5, 1.0):
        assert (widened(angles.cos(), margin).diff() < 0).all()


def test_a_narrowing_margin_stops_at_the_centre() -> None:
    cosine = torch.tensor([math.cos(0.1)], dtype=torch.float64)
    assert widened(cosine, -0.4).item() == pytest.approx(1.0, abs=1e-5)


def test_past_pi_it_falls_as_a_line() -> None:
    cosine = torch.tensor([math.cos(3.0)], dtype=torch.float64)
    assert widened(cosine, 0.5).item() == pytest.approx(math.cos(3.0) - 0.5 * math.sin(0.5), abs=1e-9)


def test_gradients_are_finite_at_both_ends() -> None:
    cosine = torch.tensor([-1.0, 1.0], requires_grad=True)
    widened(cosine, 0.5).sum().backward()
    assert cosine.grad is not None
    assert cosine.grad.isfinite().all()
