"""Hinton's distillation, against its definition in plain floats."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from distill.losses import LossContext
from distill.losses.hinton_kl import HintonKLSettings, hinton_kl
from distill.outputs import ModelOutputs


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softened(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [1.0, 4.0, 8.0])
def test_matches_a_direct_reading(temperature: float) -> None:
    student, teacher = 3 * random(0, 5, 4), 3 * random(1, 5, 4)
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        for p_s, p_t in zip(softened(s, temperature), softened(t, temperature), strict=True):
            total += p_t * math.log(p_t / p_s)
    loss = hinton_kl(student, teacher, temperature=temperature)
    assert loss.item() == pytest.approx(temperature**2 * total / 5, rel=1e-4)


def test_two_classes_by_hand() -> None:
    """Teacher 3/4 to 1/4, student even: 3/4 log(3/2) + 1/4 log(1/2)."""
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert hinton_kl(torch.zeros(1, 2), teacher, temperature=1.0).item() == pytest.approx(expected, rel=1e-6)


def test_is_zero_on_equal_logits() -> None:
    logits = random(0, 5, 4)
    torch.testing.assert_close(hinton_kl(logits + 2, logits, temperature=4.0), torch.tensor(0.0))


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = random(0, 5, 4).requires_grad_(), random(1, 5, 4).requires_grad_()
    hinton_kl(student, teacher, temperature=4.0).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_the_teacher_s_logits_are_scaled_cosines_to_its_centres() -> None:
    centre = F.normalize(random(2, 4, 8))
    context = LossContext(student_dim=3, teacher_dim=8, teacher_centre_CD=centre)
    embedding, logits = random(1, 5, 8), random(0, 5, 4)
    loss = HintonKLSettings(temperature=2.0, scale=16.0).build(context)
    teacher_logits = torch.stack(
        [torch.stack([16 * F.cosine_similarity(e, c, dim=0) for c in centre]) for e in embedding]
    )
    torch.testing.assert_close(
        loss(
            student=ModelOutputs(embedding=random(3, 5, 3), logits=logits),
            teacher=ModelOutputs(embedding=embedding),
        ),
        hinton_kl(logits, teacher_logits, temperature=2.0),
    )
    assert not loss.state_dict()  # the teacher's centres are not worth a checkpoint
    assert not list(loss.parameters())


def test_defaults_are_the_published_ones() -> None:
    settings = HintonKLSettings()
    assert (settings.weight, settings.temperature, settings.scale) == (1.0, 4.0, 64.0)
    assert settings.needs == {"classifier", "teacher_centres"}
    assert not settings.same_width


@pytest.mark.parametrize("name", ["temperature", "scale"])
def test_refuses_nothing_and_less(name: str) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        HintonKLSettings.model_validate({name: 0.0})
