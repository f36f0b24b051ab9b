"""Triplet distillation, against its equations in plain floats."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from distill.losses.base import LossContext
from distill.losses.triplet_distillation import Distance, TripletDistillationSettings, triplet_distillation
from distill.outputs import ModelOutputs
from tests.distill.losses.by_hand import Row, dot, mean, unit_rows

LABELS = torch.tensor([0, 0, 1, 1, 1, 2])


def faces(seed: int, width: int = 4) -> Tensor:
    return torch.randn(6, width, generator=torch.Generator().manual_seed(seed))


def on_circle(*degrees: float) -> Tensor:
    return torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in degrees])


def apart(a: Row, b: Row, distance: Distance) -> float:
    return math.dist(a, b) ** 2 if distance == "l2" else math.acos(dot(a, b))


@pytest.mark.parametrize("distance", ["l2", "angle"])
@pytest.mark.parametrize(("max_margin", "min_margin"), [(0.5, 0.2), (3.0, 0.0)])
def test_matches_the_equations(distance: Distance, max_margin: float, min_margin: float) -> None:
    student, teacher = faces(0), faces(1, width=3)
    s, t = unit_rows(student), unit_rows(teacher)
    triplets = [
        (a, p, n)
        for a in range(6)
        for p in range(6)
        for n in range(6)
        if a != p and LABELS[a] == LABELS[p] and LABELS[a] != LABELS[n]
    ]
    assert len(triplets) == 2 * 4 + 6 * 3
    gaps = [max(0.0, apart(t[a], t[n], distance) - apart(t[a], t[p], distance)) for a, p, n in triplets]
    losses = []
    for (a, p, n), gap in zip(triplets, gaps, strict=True):
        margin = (max_margin - min_margin) / max(gaps) * gap + min_margin
        losses.append(max(0.0, apart(s[a], s[p], distance) - apart(s[a], s[n], distance) + margin))
    assert 0.0 in losses
    value = triplet_distillation(
        student, teacher, LABELS, max_margin=max_margin, min_margin=min_margin, distance=distance
    )
    assert value.item() == pytest.approx(mean(losses), rel=1e-4)


def test_one_genuine_pair_by_hand() -> None:
    labels = torch.tensor([4, 4, 9])
    teacher = on_circle(0, 60, 180)
    # Squared distances: 1 between the pair, 4 and 3 to the other. Gaps 3 and 2, so margins 0.5 and 0.4.
    collapsed = torch.ones(3, 2)
    assert triplet_distillation(collapsed, teacher, labels).item() == pytest.approx(0.45, rel=1e-5)
    student = on_circle(0, 90, 90)
    # The first anchor is as far from both, 0 + 0.5; the second falls 2 short of the other, 2 + 0.4.
    assert triplet_distillation(student, teacher, labels).item() == pytest.approx(1.45, rel=1e-5)


def test_a_teacher_that_sees_no_gap_asks_for_the_narrowest_margin() -> None:
    labels = torch.tensor([0, 0, 1])
    assert triplet_distillation(torch.ones(3, 2), torch.eye(3), labels).item() == pytest.approx(0.2)


def test_a_student_that_keeps_every_margin_has_no_loss() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    student = on_circle(0, 0, 180, 180)
    assert triplet_distillation(student, faces(1)[:4], labels).item() == 0


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4, 5], [7, 7, 7, 7, 7, 7]])
def test_without_a_triplet_it_is_a_zero_that_can_be_trained_on(labels: list[int]) -> None:
    student = faces(0).requires_grad_()
    loss = triplet_distillation(student, faces(1), torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_refuses_faces_without_labels() -> None:
    loss_fn = TripletDistillationSettings().build(LossContext(student_dim=4, teacher_dim=4))
    with pytest.raises(ValueError, match="labels_B must be given"):
        loss_fn(student=ModelOutputs(embedding=faces(0)), teacher=ModelOutputs(embedding=faces(1)))


def test_settings_are_the_published() -> None:
    settings = TripletDistillationSettings()
    assert (settings.max_margin, settings.min_margin, settings.distance, settings.weight) == (
        0.5,
        0.2,
        "l2",
        1,
    )
    assert settings.min_batch_size == 3
    assert settings.needs == {"labels", "positives"}
    assert not settings.same_width


def test_refuses_margins_out_of_order() -> None:
    with pytest.raises(ValidationError, match=r"min_margin must be at most max_margin 0\.1, got 0\.2"):
        TripletDistillationSettings(max_margin=0.1)
