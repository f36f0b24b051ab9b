"""The inherited classifier, against its definition in plain floats."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.losses import LossContext
from distill.losses.proxyless import ProxylessSettings
from distill.outputs import ModelOutputs


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CENTRES = F.normalize(random(2, 4, 6))
CONTEXT = LossContext(student_dim=6, teacher_dim=6, num_classes=4, teacher_centre_CD=CENTRES)
LABELS = torch.tensor([0, 3, 3, 1, 2])


def outputs(embedding: Tensor) -> ModelOutputs:
    return ModelOutputs(embedding=embedding)


def test_matches_a_direct_reading() -> None:
    student_BD = random(0, 5, 6) + CENTRES[LABELS]
    losses = []
    for student, label in zip(student_BD.tolist(), LABELS.tolist(), strict=True):
        cosines = [
            sum(a * b for a, b in zip(student, centre, strict=True)) / math.hypot(*student)
            for centre in CENTRES.tolist()
        ]
        logits = [16 * cosine for cosine in cosines]
        logits[label] = 16 * math.cos(math.acos(cosines[label]) + 0.5)
        losses.append(-logits[label] + math.log(sum(math.exp(logit) for logit in logits)))
    loss = ProxylessSettings(scale=16.0).build(CONTEXT)(
        student=outputs(student_BD), teacher=outputs(random(1, 5, 6)), labels_B=LABELS
    )
    assert loss.item() == pytest.approx(sum(losses) / 5, rel=1e-4)


def test_the_student_alone_decides_and_centres_are_frozen() -> None:
    loss = ProxylessSettings().build(CONTEXT)
    student = random(0, 5, 6).requires_grad_()
    values = [
        loss(student=outputs(student), teacher=outputs(random(seed, 5, 6)), labels_B=LABELS)
        for seed in (1, 2)
    ]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)
    values[0].backward()
    assert student.grad is not None
    assert (student.grad != 0).any(dim=1).all()
    assert not list(loss.parameters())
    assert not loss.state_dict()
    torch.testing.assert_close(loss.centre_CD, CENTRES, rtol=0, atol=0)


def test_embeddings_on_their_centres_lose_little() -> None:
    loss = ProxylessSettings().build(CONTEXT)
    on_centre = loss(student=outputs(9 * CENTRES[LABELS]), teacher=outputs(CENTRES[LABELS]), labels_B=LABELS)
    assert on_centre < loss(
        student=outputs(random(0, 5, 6)), teacher=outputs(CENTRES[LABELS]), labels_B=LABELS
    )


def test_refuses_faces_without_labels_and_teachers_without_centres() -> None:
    with pytest.raises(ValueError, match="labels_B must be given"):
        ProxylessSettings().build(CONTEXT)(
            student=outputs(torch.ones(5, 6)), teacher=outputs(torch.ones(5, 6))
        )
    with pytest.raises(ValueError, match="teacher_centre_CD must be given"):
        ProxylessSettings().build(LossContext(student_dim=6, teacher_dim=6))


def test_defaults_are_the_published_ones() -> None:
    settings = ProxylessSettings()
    assert (settings.margin_rad, settings.scale, settings.weight) == (0.5, 64.0, 1.0)
    assert settings.needs == {"labels", "teacher_centres"}
    assert settings.same_width
