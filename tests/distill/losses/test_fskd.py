"""Feature similarity distillation, against its definition in plain floats."""

import math

import pytest
import torch
from torch import Tensor, nn

from distill.losses import LossContext
from distill.losses.fskd import FSKD, FSKDSettings
from distill.outputs import ModelOutputs

Shape = tuple[int, int, int]


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def maps(seed: int, shapes: list[Shape], *, batch: int = 3) -> tuple[Tensor, ...]:
    return tuple(random(seed + i, batch, *shape) for i, shape in enumerate(shapes))


def build(student: list[Shape], teacher: list[Shape]) -> FSKD:
    torch.manual_seed(0)
    return FSKDSettings().build(
        LossContext(student_dim=2, teacher_dim=2, student_maps=tuple(student), teacher_maps=tuple(teacher))
    )


def value(loss_fn: FSKD, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
    nothing = torch.zeros(len(student[0]), 2)
    return loss_fn(
        student=ModelOutputs(embedding=nothing, maps=student),
        teacher=ModelOutputs(embedding=nothing, maps=teacher),
    )


def distance(student: Tensor, teacher: Tensor) -> float:
    """Batch mean of one minus the cosine of two flattened maps."""
    distances = []
    for s, t in zip(student.flatten(1).tolist(), teacher.flatten(1).tolist(), strict=True):
        dot = sum(a * b for a, b in zip(s, t, strict=True))
        distances.append(1 - dot / (math.hypot(*s) * math.hypot(*t)))
    return sum(distances) / len(distances)


def test_is_the_mean_over_stages_and_batch() -> None:
    shapes: list[Shape] = [(2, 4, 4), (3, 2, 2)]
    student, teacher = maps(0, shapes), maps(10, shapes)
    expected = (distance(student[0], teacher[0]) + distance(student[1], teacher[1])) / 2
    assert value(build(shapes, shapes), student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_stages_are_paired_from_the_last() -> None:
    student, teacher = maps(0, [(2, 2, 2)]), maps(10, [(2, 4, 4), (2, 2, 2)])
    loss = value(build([(2, 2, 2)], [(2, 4, 4), (2, 2, 2)]), student, teacher)
    assert loss.item() == pytest.approx(distance(student[0], teacher[1]), rel=1e-5)


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_the_larger_map_is_averaged_down(larger: str) -> None:
    large, small = random(0, 3, 2, 4, 4), random(1, 3, 2, 2, 2)
    pooled = large.reshape(3, 2, 2, 2, 2, 2).mean(dim=(3, 5))
    student, teacher = (large, small) if larger == "student" else (small, large)
    loss = value(build([(2, 4, 4)], [(2, 2, 2)]), (student,), (teacher,))
    assert loss.item() == pytest.approx(distance(pooled, small), rel=1e-5)


def test_channels_are_bridged_only_where_they_differ() -> None:
    loss_fn = build([(2, 4, 4), (3, 2, 2)], [(2, 4, 4), (5, 2, 2)])
    assert {name: tuple(p.shape) for name, p in loss_fn.named_parameters()} == {
        "bridges.1.0.weight": (5, 3, 1, 1),
        "bridges.1.1.weight": (5,),
        "bridges.1.1.bias": (5,),
    }
    assert set(loss_fn.state_dict()) > {"bridges.1.0.weight", "bridges.1.1.running_mean"}


def test_the_bridge_is_a_convolution_and_a_normalisation() -> None:
    student, teacher = random(0, 4, 3, 2, 2), random(1, 4, 5, 2, 2)
    loss_fn = build([(3, 2, 2)], [(5, 2, 2)])
    convolution = next(module for module in loss_fn.modules() if isinstance(module, nn.Conv2d))
    mixed = torch.einsum("kc,bchw->bkhw", convolution.weight[:, :, 0, 0], student)
    variance, mean = torch.var_mean(mixed, dim=(0, 2, 3), correction=0, keepdim=True)
    bridged = (mixed - mean) / (variance + 1e-5).sqrt()
    assert value(loss_fn, (student,), (teacher,)).item() == pytest.approx(
        distance(bridged, teacher), rel=1e-4
    )


def test_gradient_reaches_the_student_and_the_bridges() -> None:
    shapes: tuple[list[Shape], list[Shape]] = ([(2, 4, 4), (3, 2, 2)], [(2, 2, 2), (5, 2, 2)])
    loss_fn = build(*shapes)
    student, teacher = maps(0, shapes[0]), maps(10, shapes[1])
    for tensor in (*student, *teacher):
        tensor.requires_grad_()
    value(loss_fn, student, teacher).backward()
    for learner in (*student, *loss_fn.parameters()):
        assert learner.grad is not None
        assert (learner.grad != 0).any()
    assert all(tensor.grad is None for tensor in teacher)


def test_is_blind_to_norms_and_zero_on_equal_maps() -> None:
    shapes: list[Shape] = [(2, 4, 4), (3, 2, 2)]
    student = maps(0, shapes)
    louder = tuple(3 * tensor for tensor in student)
    torch.testing.assert_close(
        value(build(shapes, shapes), student, louder), torch.tensor(0.0), rtol=0, atol=1e-6
    )


def test_defaults_are_the_published_ones() -> None:
    assert FSKDSettings().weight == 20.0
    assert FSKDSettings.needs == {"paired_views", "feature_maps"}
    assert not FSKDSettings.same_width


def test_refuses_networks_without_stages() -> None:
    with pytest.raises(ValueError, match="stages must be given of both networks"):
        build([], [(2, 4, 4)])
