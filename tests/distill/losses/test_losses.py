"""What every distillation loss must do. A field of `LossesSettings` is tested here for free."""

from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from distill.errors import InputError
from distill.losses import DistillationLoss, LossContext, LossesSettings, LossSettings
from distill.outputs import ModelOutputs

SETTINGS: dict[str, type[LossSettings]] = {
    name: get_args(field.annotation)[0] for name, field in LossesSettings.model_fields.items()
}

CONTEXT = LossContext(student_dim=8, teacher_dim=8)


@pytest.fixture(params=SETTINGS)
def loss_fn(request: pytest.FixtureRequest) -> DistillationLoss:
    return SETTINGS[request.param]().build(CONTEXT)


def embedding(seed: int) -> Tensor:
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(seed))


def value(loss_fn: DistillationLoss, student: Tensor, teacher: Tensor) -> Tensor:
    return loss_fn(student=ModelOutputs(embedding=student), teacher=ModelOutputs(embedding=teacher))


def test_is_one_number_above_zero(loss_fn: DistillationLoss) -> None:
    loss = value(loss_fn, embedding(0), embedding(1))
    assert loss.shape == ()
    assert loss > 0


def test_gradient_reaches_the_student_and_never_the_teacher(loss_fn: DistillationLoss) -> None:
    student, teacher = embedding(0).requires_grad_(), embedding(1).requires_grad_()
    value(loss_fn, student, teacher).backward()
    assert student.grad is not None
    assert (student.grad != 0).any(dim=1).all()
    assert teacher.grad is None


def test_is_zero_when_the_student_equals_the_teacher(loss_fn: DistillationLoss) -> None:
    loss = value(loss_fn, embedding(0), embedding(0))
    torch.testing.assert_close(loss, torch.tensor(0.0), rtol=0, atol=1e-6)


def test_falls_when_the_student_follows_its_gradient(loss_fn: DistillationLoss) -> None:
    student, teacher = embedding(0).requires_grad_(), embedding(1)
    before = value(loss_fn, student, teacher)
    (gradient,) = torch.autograd.grad(before, student)
    assert value(loss_fn, student - 0.1 * gradient, teacher) < before


def test_terms_are_weighted_and_named_after_their_field() -> None:
    settings = LossesSettings.model_validate({"raw_mse": {"weight": 0.5}, "cosine": {"weight": 3.0}})
    student, teacher = embedding(0), embedding(1)
    terms = settings.build(CONTEXT)(
        student=ModelOutputs(embedding=student), teacher=ModelOutputs(embedding=teacher)
    )
    plain = {name: SETTINGS[name]().build(CONTEXT) for name in ("raw_mse", "cosine")}
    assert terms.keys() == plain.keys()
    torch.testing.assert_close(terms["raw_mse"], 0.5 * value(plain["raw_mse"], student, teacher))
    torch.testing.assert_close(terms["cosine"], 3.0 * value(plain["cosine"], student, teacher))


def test_a_loss_of_weight_zero_is_left_out() -> None:
    settings = LossesSettings.model_validate({"raw_mse": {"weight": 0.0}, "cosine": {}})
    assert set(settings.named()) == {"raw_mse", "cosine"}
    assert set(settings.build(CONTEXT).losses) == {"cosine"}


def test_refuses_weights_that_are_all_zero() -> None:
    with pytest.raises(ValidationError, match=r"a weight must be above 0.*: raw_mse, unit_mse"):
        LossesSettings.model_validate({"raw_mse": {"weight": 0}, "unit_mse": {"weight": 0}})


@pytest.mark.parametrize("name", ["raw_mse", "unit_mse", "cosine"])
def test_refuses_to_compare_embeddings_of_other_widths(name: str) -> None:
    with pytest.raises(InputError, match=f"losses.{name} needs embeddings as wide as the teacher's 8"):
        LossesSettings.model_validate({name: {}}).build(LossContext(student_dim=4, teacher_dim=8))
