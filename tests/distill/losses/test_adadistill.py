"""AdaDistill's growing centres, by hand, and its loss in plain floats."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from distill.losses import LossContext
from distill.losses.adadistill import AdaDistill, AdaDistillSettings, moved_centres
from distill.outputs import ModelOutputs

CONTEXT = LossContext(student_dim=2, teacher_dim=2, num_classes=3)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at(*degrees: float, norm: float = 1.0) -> Tensor:
    """Vectors of the plane, by their angle."""
    return torch.tensor(
        [[norm * math.cos(math.radians(d)), norm * math.sin(math.radians(d))] for d in degrees]
    )


def value(loss_fn: AdaDistill, student: Tensor, teacher: Tensor, labels: list[int]) -> Tensor:
    return loss_fn(
        student=ModelOutputs(embedding=student),
        teacher=ModelOutputs(embedding=teacher),
        labels_B=torch.tensor(labels),
    )


@pytest.mark.parametrize(
    ("alpha", "student", "kept"),
    [
        ("cos", 60.0, math.cos(math.radians(60))),
        ("cos_cos", 60.0, math.cos(math.radians(60)) * math.cos(math.radians(30))),
        ("cos", 180.0, 1e-6),
        ("cos_cos", 180.0, 1e-6),
        ("cos", 0.0, 1.0),
    ],
)
def test_a_centre_keeps_as_much_as_student_and_teacher_agree(
    alpha: Literal["cos", "cos_cos"], student: float, kept: float
) -> None:
    moved = moved_centres(at(30), at(student, norm=5.0), at(0, norm=3.0), alpha=alpha)
    torch.testing.assert_close(moved, kept * at(30) + (1 - kept) * at(0))


def test_two_disagreements_are_no_agreement() -> None:
    moved = moved_centres(at(180), at(180), at(0), alpha="cos_cos")
    torch.testing.assert_close(moved, at(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("alpha", ["cos_cos", "cos"])
def test_a_class_not_met_yet_takes_the_teacher_s_feature(alpha: Literal["cos", "cos_cos"]) -> None:
    student = at(75, 0)  # the second student agrees fully, and would keep all of a centre
    moved = moved_centres(torch.zeros(2, 2), student, at(75, 0, norm=4.0), alpha=alpha)
    torch.testing.assert_close(moved, at(75, 0))


def test_two_steps_by_hand() -> None:
    loss_fn = AdaDistillSettings(alpha="cos").build(CONTEXT)
    value(loss_fn, at(10, 100), at(0, 90, norm=2.0), labels=[0, 2])
    torch.testing.assert_close(loss_fn.centre_CD, torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))

    # Class 0 has two faces: one moves (1, 0) half the way to 90 degrees, the other all the way to 180.
    value(loss_fn, at(150, 90, 45), at(90, 180, 45, norm=3.0), labels=[0, 0, 1])
    mean_of_class_0 = torch.tensor([[(0.5 - 1.0) / 2, (0.5 + 0.0) / 2]])
    expected = torch.cat([mean_of_class_0 / mean_of_class_0.norm(), at(45), at(90)])
    torch.testing.assert_close(loss_fn.centre_CD, expected, rtol=0, atol=1e-5)


def test_the_order_of_the_batch_does_not_matter() -> None:
    student, teacher, labels = random(0, 6, 2), random(1, 6, 2), [0, 0, 1, 0, 2, 1]
    order = [3, 5, 0, 4, 1, 2]
    one, other = (AdaDistillSettings().build(CONTEXT) for _ in range(2))
    for _ in range(2):
        value(one, student, teacher, labels)
        value(other, student[order], teacher[order], [labels[i] for i in order])
    torch.testing.assert_close(one.centre_CD, other.centre_CD)
    torch.testing.assert_close(one.centre_CD.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize(
    ("margin_type", "true_cosine"),
    [("arcface", lambda c: math.cos(math.acos(c) + 0.45)), ("cosface", lambda c: c - 0.35)],
)
def test_the_loss_is_asked_for_after_the_centres_moved(margin_type, true_cosine) -> None:
    settings = AdaDistillSettings(margin_type=margin_type, scale=8.0)
    loss_fn = settings.build(CONTEXT)
    loss = value(loss_fn, at(40, 120, norm=2.0), at(0, 90), labels=[0, 1])
    losses = []
    for degrees, own, other in [(40, 0, 90), (120, 90, 0)]:
        true = 8 * true_cosine(math.cos(math.radians(degrees - own)))
        wrong = 8 * math.cos(math.radians(degrees - other))
        losses.append(-true + math.log(math.exp(true) + math.exp(wrong) + math.exp(0)))  # 0: not met yet
    assert loss.item() == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_gradient_reaches_the_student_only() -> None:
    student, teacher = random(0, 4, 2).requires_grad_(), random(1, 4, 2).requires_grad_()
    loss_fn = AdaDistillSettings().build(CONTEXT)
    for _ in range(2):
        value(loss_fn, student, teacher, labels=[0, 1, 2, 2]).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad != 0).any()
    assert teacher.grad is None
    assert not loss_fn.centre_CD.requires_grad
    assert not list(loss_fn.parameters())


def test_evaluation_leaves_centres_where_they_are() -> None:
    loss_fn = AdaDistillSettings().build(CONTEXT)
    value(loss_fn, random(0, 3, 2), random(1, 3, 2), labels=[0, 1, 2])
    before = loss_fn.centre_CD.clone()
    loss_fn.eval()
    loss = value(loss_fn, random(2, 3, 2), random(3, 3, 2), labels=[0, 1, 2])
    assert loss > 0
    torch.testing.assert_close(loss_fn.centre_CD, before, rtol=0, atol=0)


def test_centres_travel_in_checkpoints() -> None:
    loss_fn, restored = (AdaDistillSettings().build(CONTEXT) for _ in range(2))
    value(loss_fn, random(0, 3, 2), random(1, 3, 2), labels=[0, 1, 1])
    assert set(loss_fn.state_dict()) == {"centre_CD"}
    restored.load_state_dict(loss_fn.state_dict())
    for _ in range(2):
        torch.testing.assert_close(
            value(restored, random(2, 3, 2), random(3, 3, 2), labels=[2, 1, 0]),
            value(loss_fn, random(2, 3, 2), random(3, 3, 2), labels=[2, 1, 0]),
        )
    torch.testing.assert_close(restored.centre_CD, loss_fn.centre_CD)


def test_margins_are_the_published_ones_unless_set() -> None:
    student, teacher = at(40, 120), at(0, 90)
    for margin_type, published in (("arcface", 0.45), ("cosface", 0.35)):
        default, explicit, other = (
            value(
                AdaDistillSettings.model_validate({"margin_type": margin_type, **margin}).build(CONTEXT),
                student,
                teacher,
                labels=[0, 1],
            )
            for margin in ({}, {"margin": published}, {"margin": 0.1})
        )
        torch.testing.assert_close(default, explicit)
        assert other < default


def test_needs_labels_classes_and_equal_widths() -> None:
    assert AdaDistillSettings.needs == {"labels"}
    assert AdaDistillSettings.same_width
    with pytest.raises(ValueError, match="num_classes must be given to a loss that needs labels, got None"):
        AdaDistillSettings().build(LossContext(student_dim=2, teacher_dim=2))
