"""Cross-entropies with a margin, against the definition in plain floats."""

import math

import pytest
import torch

from distill.losses.class_centres import (
    arcface_cross_entropy,
    cosface_cross_entropy,
    cosines_to_centres,
    require_logits,
)
from distill.outputs import ModelOutputs

COSINES = [[0.6, 0.1, -0.3], [0.2, -0.5, 0.4]]
LABELS = [0, 1]
SCALE = 8.0


def cross_entropy(true_logits: list[float]) -> float:
    losses = []
    for cosines, label, true in zip(COSINES, LABELS, true_logits, strict=True):
        others = [SCALE * cosine for c, cosine in enumerate(cosines) if c != label]
        losses.append(-true + math.log(sum(math.exp(logit) for logit in [true, *others])))
    return sum(losses) / len(losses)


def test_cosines_are_blind_to_norms() -> None:
    centre = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    cosine = cosines_to_centres(torch.tensor([[0.0, 7.0], [-2.0, 0.0]]), centre)
    torch.testing.assert_close(cosine, torch.tensor([[0.0, 0.8], [-1.0, -0.6]]))


@pytest.mark.parametrize("margins", [[0.0, 0.0], [0.3, 0.3], [0.5, 0.2]])
def test_arcface_widens_the_true_angle(margins: list[float]) -> None:
    true = [SCALE * math.cos(math.acos(c) + m) for c, m in zip([0.6, -0.5], margins, strict=True)]
    loss = arcface_cross_entropy(
        torch.tensor(COSINES), torch.tensor(LABELS), scale=SCALE, margin_rad=torch.tensor(margins)
    )
    assert loss.item() == pytest.approx(cross_entropy(true), rel=1e-5)


def test_cosface_lowers_the_true_cosine() -> None:
    loss = cosface_cross_entropy(torch.tensor(COSINES), torch.tensor(LABELS), scale=SCALE, margin=0.35)
    true = [SCALE * (0.6 - 0.35), SCALE * (-0.5 - 0.35)]
    assert loss.item() == pytest.approx(cross_entropy(true), rel=1e-5)


def test_refuses_a_student_without_a_classifier() -> None:
    with pytest.raises(ValueError, match=r"student\.logits must be given"):
        require_logits(ModelOutputs(embedding=torch.zeros(2, 3)))
