"""What every distillation loss must do. A field of `LossesSettings` is tested here for free."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from distill.errors import InputError
from distill.losses import DistillationLoss, LossContext, LossesSettings, LossName, LossSettings
from distill.outputs import ModelOutputs

SETTINGS: dict[str, type[LossSettings]] = {
    name: get_args(field.annotation)[0]
    for name, field in LossesSettings.model_fields.items()
    if name != "only"
}
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
DIM = 8
CENTRES = F.normalize(torch.randn(4, DIM, generator=torch.Generator().manual_seed(9)))
MAPS = ((3, 4, 4), (6, 2, 2))
CONTEXT = LossContext(
    student_dim=DIM,
    teacher_dim=DIM,
    num_classes=4,
    teacher_centre_CD=CENTRES,
    student_maps=MAPS,
    teacher_maps=MAPS,
)
ZERO_WHEN_EQUAL = [
    "raw_mse",
    "unit_mse",
    "cosine",
    "hinton_kl",
    "gkd",
    "rkd",
    "cckd",
    "similarity_preserving",
    "ekd",
    "askd",
]


@pytest.fixture(params=SETTINGS)
def loss_fn(request: pytest.FixtureRequest) -> DistillationLoss:
    torch.manual_seed(0)
    return SETTINGS[request.param]().build(CONTEXT)


def embedding(seed: int) -> Tensor:
    return torch.randn(len(LABELS), DIM, generator=torch.Generator().manual_seed(seed))


def outputs(embedding_BD: Tensor) -> ModelOutputs:
    """All that a network may say of faces: here every part of it follows from the embedding."""
    rng = torch.Generator().manual_seed(7)
    maps = []
    for channels, height, width in MAPS:
        mixing = torch.randn(DIM, channels * height * width, generator=rng)
        maps.append((embedding_BD @ mixing).view(-1, channels, height, width))
    logits = 64 * F.normalize(embedding_BD) @ CENTRES.T
    return ModelOutputs(embedding=embedding_BD, logits=logits, maps=tuple(maps))


def value(loss_fn: DistillationLoss, student: Tensor, teacher: Tensor) -> Tensor:
    return loss_fn(student=outputs(student), teacher=outputs(teacher), labels_B=LABELS)


def test_every_loss_can_be_chosen_by_name() -> None:
    assert set(get_args(LossName)) == set(SETTINGS)


def test_is_one_number_above_zero(loss_fn: DistillationLoss) -> None:
    loss = value(loss_fn, embedding(0), embedding(1))
    assert loss.shape == ()
    assert loss > 0


def test_gradient_reaches_the_student_and_never_the_teacher(loss_fn: DistillationLoss) -> None:
    student, teacher = embedding(0).requires_grad_(), embedding(1).requires_grad_()
    value(loss_fn, student, teacher).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad != 0).any(dim=1).all()
    assert teacher.grad is None


@pytest.mark.parametrize("name", ZERO_WHEN_EQUAL)
def test_is_zero_when_the_student_equals_the_teacher(name: str) -> None:
    loss = value(SETTINGS[name]().build(CONTEXT), embedding(0), embedding(0))
    torch.testing.assert_close(loss, torch.tensor(0.0), rtol=0, atol=1e-5)


def test_falls_when_the_student_follows_its_gradient(loss_fn: DistillationLoss) -> None:
    student, teacher = embedding(0).requires_grad_(), embedding(1)
    value(loss_fn, student, teacher)  # running statistics have seen a batch, and are left alone from here
    loss_fn.eval()
    before = value(loss_fn, student, teacher)
    (gradient,) = torch.autograd.grad(before, student)
    step = 1e-2 / float(gradient.norm())
    assert value(loss_fn, student - step * gradient, teacher) < before


def test_the_teacher_of_a_batch_of_one_person_gives_no_gradient_that_is_not_finite(
    loss_fn: DistillationLoss,
) -> None:
    same = embedding(0)[:1].expand(len(LABELS), -1).clone().requires_grad_()
    value(loss_fn, same, embedding(1)).backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_terms_are_weighted_and_named_after_their_field() -> None:
    settings = LossesSettings.model_validate({"raw_mse": {"weight": 0.5}, "cosine": {"weight": 3.0}})
    student, teacher = embedding(0), embedding(1)
    terms = settings.build(CONTEXT)(student=outputs(student), teacher=outputs(teacher))
    plain = {name: SETTINGS[name]().build(CONTEXT) for name in ("raw_mse", "cosine")}
    assert terms.keys() == plain.keys()
    torch.testing.assert_close(terms["raw_mse"], 0.5 * value(plain["raw_mse"], student, teacher))
    torch.testing.assert_close(terms["cosine"], 3.0 * value(plain["cosine"], student, teacher))


def test_a_loss_of_weight_zero_is_left_out() -> None:
    settings = LossesSettings.model_validate({"raw_mse": {"weight": 0.0}, "cosine": {}})
    assert set(settings.named()) == {"raw_mse", "cosine"}
    assert set(settings.build(CONTEXT).losses) == {"cosine"}


def test_one_loss_can_be_taken_alone_as_published_or_as_set() -> None:
    assert LossesSettings.model_validate({"only": "cosine"}).used() == {"cosine": SETTINGS["cosine"]()}
    settings = LossesSettings.model_validate({"only": "cosine", "cosine": {"weight": 3.0}})
    assert settings.used()["cosine"].weight == 3.0


def test_refuses_losses_beside_the_only_one() -> None:
    with pytest.raises(
        ValidationError, match=r"only must leave no other loss set: it is cosine, got raw_mse"
    ):
        LossesSettings.model_validate({"only": "cosine", "raw_mse": {}})


def test_refuses_weights_that_are_all_zero() -> None:
    with pytest.raises(ValidationError, match=r"a weight must be above 0.*: raw_mse, unit_mse"):
        LossesSettings.model_validate({"raw_mse": {"weight": 0}, "unit_mse": {"weight": 0}})


@pytest.mark.parametrize("name", ["raw_mse", "unit_mse", "cosine"])
def test_refuses_to_compare_embeddings_of_other_widths(name: str) -> None:
    with pytest.raises(InputError, match=f"losses.{name} needs embeddings as wide as the teacher's 8"):
        LossesSettings.model_validate({name: {}}).build(LossContext(student_dim=4, teacher_dim=8))
