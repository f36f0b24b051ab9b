"""ArcFace against trigonometry by hand."""

import math

import pytest
import torch

from distill.losses.margins import ArcFace, ArcFaceSettings

LABEL_1 = torch.tensor([1])
NORM = torch.tensor([7.0])


def test_adds_the_angle_to_the_target() -> None:
    # cos 0.5 = 0.877583, sin 0.5 = 0.479426: 0.6 * 0.877583 - 0.8 * 0.479426 = 0.143009.
    logits = ArcFaceSettings().build()(torch.tensor([[0.3, 0.6, -0.2]]), LABEL_1, norm_B=NORM)
    assert logits[0].tolist() == pytest.approx([19.2, 64 * 0.143009, -12.8], abs=1e-4)


def test_past_pi_it_falls_as_a_line() -> None:
    cosine = math.cos(3.0)
    logits = ArcFace(scale=10)(torch.tensor([[0.1, cosine]]), LABEL_1, norm_B=NORM)
    assert logits[0].tolist() == pytest.approx([1.0, 10 * (cosine - 0.5 * math.sin(0.5))], abs=1e-5)


@pytest.mark.parametrize("cosine", [1.0, 0.5, -0.5])
def test_an_angle_of_zero_changes_nothing(cosine: float) -> None:
    logits = ArcFace(scale=64, margin=0)(torch.tensor([[0.1, cosine]]), LABEL_1, norm_B=NORM)
    assert logits[0].tolist() == pytest.approx([6.4, 64 * cosine], abs=1e-3)


def test_norms_do_not_matter() -> None:
    cosine = torch.tensor([[0.3, 0.6]])
    short, long = (ArcFace()(cosine, LABEL_1, norm_B=norm * NORM) for norm in (1, 9))
    assert torch.equal(short, long)
