"""Margin distillation, against its definition in plain floats."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from distill.losses import LossContext
from distill.losses.margin_distillation import MarginDistillationSettings, sample_margins
from distill.outputs import ModelOutputs


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


CENTRES = F.normalize(random(2, 4, 6))
CONTEXT = LossContext(student_dim=6, teacher_dim=6, num_classes=4, teacher_centre_CD=CENTRES)
LABELS = [0, 3, 3, 1, 2]


def test_margins_by_hand() -> None:
    margins = sample_margins(torch.tensor([0.8, 0.4, 0.0, -0.9]), min_margin_rad=0.2, max_margin_rad=0.5)
    assert margins.tolist() == pytest.approx([0.5, 0.35, 0.2, 0.2])


def test_a_teacher_that_knows_no_face_gives_the_smallest_margin() -> None:
    margins = sample_margins(torch.tensor([-0.1, 0.0]), min_margin_rad=0.2, max_margin_rad=0.5)
    assert margins.tolist() == pytest.approx([0.2, 0.2])


def test_matches_a_direct_reading() -> None:
    student, centres = random(0, 5, 6).tolist(), CENTRES.tolist()
    teacher = (3 * random(1, 5, 6) + 9 * CENTRES[LABELS]).tolist()
    sure = [max(0.0, cosine(t, centres[y])) for t, y in zip(teacher, LABELS, strict=True)]
    losses = []
    for s, y, d in zip(student, LABELS, sure, strict=True):
        margin = (0.5 - 0.2) / max(sure) * d + 0.2
        logits = [16 * cosine(s, centre) for centre in centres]
        logits[y] = 16 * math.cos(math.acos(cosine(s, centres[y])) + margin)
        losses.append(-logits[y] + math.log(sum(math.exp(logit) for logit in logits)))
    loss = MarginDistillationSettings(scale=16.0).build(CONTEXT)(
        student=ModelOutputs(embedding=torch.tensor(student)),
        teacher=ModelOutputs(embedding=torch.tensor(teacher)),
        labels_B=torch.tensor(LABELS),
    )
    assert len({round(d, 3) for d in sure}) == 5
    assert loss.item() == pytest.approx(sum(losses) / 5, rel=1e-4)


def test_gradient_reaches_the_student_only() -> None:
    student, teacher = random(0, 5, 6).requires_grad_(), random(1, 5, 6).requires_grad_()
    loss = MarginDistillationSettings().build(CONTEXT)
    loss(
        student=ModelOutputs(embedding=student),
        teacher=ModelOutputs(embedding=teacher),
        labels_B=torch.tensor(LABELS),
    ).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad != 0).any()
    assert teacher.grad is None
    assert not list(loss.parameters())
    assert not loss.state_dict()


def test_defaults_are_the_published_ones() -> None:
    settings = MarginDistillationSettings()
    assert (settings.min_margin_rad, settings.max_margin_rad, settings.scale) == (0.2, 0.5, 64.0)
    assert settings.needs == {"labels", "teacher_centres"}
    assert settings.same_width


def test_refuses_margins_in_the_wrong_order() -> None:
    with pytest.raises(ValidationError, match=r"min_margin_rad must not exceed max_margin_rad, got 0.6 and"):
        MarginDistillationSettings(min_margin_rad=0.6)
