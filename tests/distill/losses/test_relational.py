"""What every loss that compares faces with one another must do."""

import pytest
import torch
from torch import Tensor

from distill.losses.base import DistillationLoss, LossContext, LossSettings
from distill.losses.cckd import CCKDSettings
from distill.losses.darkrank import DarkRankSettings
from distill.losses.ekd import EKDSettings
from distill.losses.rkd import RKDSettings
from distill.losses.similarity_preserving import SimilarityPreservingSettings
from distill.losses.triplet_distillation import TripletDistillationSettings
from distill.outputs import ModelOutputs

LOSSES: dict[str, LossSettings] = {
    "rkd": RKDSettings(),
    "cckd": CCKDSettings(),
    "similarity_preserving": SimilarityPreservingSettings(),
    "darkrank": DarkRankSettings(),
    "triplet_distillation_l2": TripletDistillationSettings(),
    "triplet_distillation_angle": TripletDistillationSettings(distance="angle"),
    "ekd": EKDSettings(),
}
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


@pytest.fixture(params=LOSSES)
def loss_fn(request: pytest.FixtureRequest) -> DistillationLoss:
    return LOSSES[request.param].build(LossContext(student_dim=5, teacher_dim=7))


def faces(seed: int, width: int) -> Tensor:
    return torch.randn(8, width, generator=torch.Generator().manual_seed(seed))


def value(loss_fn: DistillationLoss, student: Tensor, teacher: Tensor) -> Tensor:
    return loss_fn(
        student=ModelOutputs(embedding=student), teacher=ModelOutputs(embedding=teacher), labels_B=LABELS
    )


def gradient(loss_fn: DistillationLoss, student: Tensor, teacher: Tensor) -> Tensor:
    student = student.clone().requires_grad_()
    return torch.autograd.grad(value(loss_fn, student, teacher), student)[0]


def test_compares_embeddings_of_other_widths(loss_fn: DistillationLoss) -> None:
    loss = value(loss_fn, faces(0, 5), faces(1, 7))
    assert loss.shape == ()
    assert loss > 0


def test_gradient_reaches_the_student_and_never_the_teacher(loss_fn: DistillationLoss) -> None:
    student, teacher = faces(0, 5).requires_grad_(), faces(1, 7).requires_grad_()
    value(loss_fn, student, teacher).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad != 0).any(dim=1).all()
    assert teacher.grad is None


def test_is_blind_to_a_network_s_scale(loss_fn: DistillationLoss) -> None:
    student, teacher = faces(0, 5), faces(1, 7)
    loss_fn.eval()
    torch.testing.assert_close(
        value(loss_fn, 5 * student, 0.1 * teacher), value(loss_fn, student, teacher), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", ["rkd", "cckd", "similarity_preserving", "ekd"])
def test_is_zero_when_the_student_equals_the_teacher(name: str) -> None:
    loss_fn = LOSSES[name].build(LossContext(student_dim=5, teacher_dim=5))
    assert value(loss_fn, faces(0, 5), faces(0, 5)).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("whose", ["student", "teacher", "both"])
def test_faces_may_all_coincide(loss_fn: DistillationLoss, whose: str) -> None:
    student, teacher = faces(0, 5), faces(1, 7)
    if whose != "teacher":
        student[:] = student[0].clone()
    if whose != "student":
        teacher[:] = teacher[0].clone()
    loss_fn.eval()
    assert value(loss_fn, student, teacher).isfinite()
    assert gradient(loss_fn, student, teacher).isfinite().all()


def test_a_collapsed_student_is_not_pushed_out_of_bounds(loss_fn: DistillationLoss) -> None:
    student = faces(0, 5)
    student[1::2] = student[::2].clone()
    assert gradient(loss_fn, student, faces(1, 7)).abs().max() < 1e3


def test_falls_when_the_student_follows_its_gradient(loss_fn: DistillationLoss) -> None:
    student, teacher = faces(0, 5), faces(1, 7)
    value(loss_fn, student, teacher)
    # In evaluation, what the loss learnt from the first batch stays as it is.
    loss_fn.eval()
    slope = gradient(loss_fn, student, teacher)
    nearer = student - 1e-3 * slope / slope.norm()
    assert value(loss_fn, nearer, teacher) < value(loss_fn, student, teacher)
