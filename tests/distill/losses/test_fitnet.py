"""FitNets on embeddings, against the definition in plain floats."""

import pytest
import torch
from torch import Tensor

from distill.losses import LossContext
from distill.losses.fitnet import FitNet, FitNetSettings
from distill.outputs import ModelOutputs


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def loss_fn() -> FitNet:
    torch.manual_seed(0)
    return FitNetSettings().build(LossContext(student_dim=3, teacher_dim=5))


def value(loss_fn: FitNet, student: Tensor, teacher: Tensor) -> Tensor:
    return loss_fn(student=ModelOutputs(embedding=student), teacher=ModelOutputs(embedding=teacher))


def test_matches_a_direct_reading(loss_fn: FitNet) -> None:
    weight, bias = loss_fn.regressor.weight.tolist(), loss_fn.regressor.bias.tolist()
    squares = []
    for s, t in zip(random(0, 4, 3).tolist(), random(1, 4, 5).tolist(), strict=True):
        for row, b, target in zip(weight, bias, t, strict=True):
            squares.append((sum(w * x for w, x in zip(row, s, strict=True)) + b - target) ** 2)
    assert len(squares) == 20
    assert value(loss_fn, random(0, 4, 3), random(1, 4, 5)).item() == pytest.approx(
        sum(squares) / 20, rel=1e-5
    )


def test_gradient_reaches_the_student_and_the_projection(loss_fn: FitNet) -> None:
    student, teacher = random(0, 4, 3).requires_grad_(), random(1, 4, 5).requires_grad_()
    value(loss_fn, student, teacher).backward()
    for learner in (student, *loss_fn.parameters()):
        assert learner.grad is not None
        assert (learner.grad != 0).any()
    assert teacher.grad is None


def test_the_projection_travels_in_checkpoints(loss_fn: FitNet) -> None:
    assert set(loss_fn.state_dict()) == {"regressor.weight", "regressor.bias"}


def test_asks_for_nothing() -> None:
    assert FitNetSettings().weight == 1.0
    assert not FitNetSettings.needs
    assert not FitNetSettings.same_width
