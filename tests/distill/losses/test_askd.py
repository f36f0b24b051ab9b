"""Attention similarity distillation, against its definition in plain floats."""

import math

import pytest
import torch
from torch import Tensor

from distill.losses import LossContext
from distill.losses.askd import ASKDSettings, attention_distance, channel_attention, spatial_attention
from distill.outputs import ModelOutputs


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def distance(student: list[list[float]], teacher: list[list[float]]) -> float:
    distances = []
    for s, t in zip(student, teacher, strict=True):
        dot = sum(a * b for a, b in zip(s, t, strict=True))
        distances.append(1 - dot / (math.hypot(*s) * math.hypot(*t)))
    return sum(distances) / len(distances)


def channels(faces: Tensor) -> list[list[float]]:
    pooled = faces.flatten(2).tolist()
    return [[sigmoid(sum(c) / len(c) + max(c)) for c in face] for face in pooled]


def positions(faces: Tensor) -> list[list[float]]:
    pooled = faces.flatten(2).transpose(1, 2).tolist()
    return [[sigmoid(sum(p) / len(p) + max(p)) for p in face] for face in pooled]


def test_attention_by_hand() -> None:
    """Channels of means 1 and -1 and maxima 2 and 0, two positions."""
    face = torch.tensor([[[[0.0, 2.0]], [[-2.0, 0.0]]]])
    torch.testing.assert_close(channel_attention(face), torch.tensor([[3.0, -1.0]]).sigmoid())
    torch.testing.assert_close(spatial_attention(face), torch.tensor([[[[-1.0, 3.0]]]]).sigmoid())


def test_matches_a_direct_reading() -> None:
    student, teacher = random(0, 4, 3, 2, 5), random(1, 4, 3, 2, 5)
    expected = distance(channels(student), channels(teacher)) + distance(
        positions(student), positions(teacher)
    )
    assert attention_distance(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_channels_are_left_out_where_their_numbers_differ() -> None:
    student, teacher = random(0, 4, 3, 2, 5), random(1, 4, 6, 2, 5)
    expected = distance(positions(student), positions(teacher))
    assert attention_distance(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_spatial_attention_is_averaged_to_the_smaller_size() -> None:
    student, teacher = random(0, 4, 3, 2, 2), random(1, 4, 6, 4, 4)
    pooled = torch.tensor(positions(teacher)).reshape(4, 2, 2, 2, 2).mean(dim=(2, 4)).flatten(1)
    expected = distance(positions(student), pooled.tolist())
    assert attention_distance(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_stages_add_up_from_the_last_and_the_teacher_gets_no_gradient() -> None:
    student = [random(0, 4, 3, 4, 4).requires_grad_(), random(1, 4, 5, 2, 2).requires_grad_()]
    teacher = [
        random(i, 4, k, s, s).requires_grad_() for i, (k, s) in enumerate([(3, 8), (3, 4), (6, 2)], 10)
    ]
    shapes = [tuple((m.shape[1], m.shape[2], m.shape[3]) for m in stages) for stages in (student, teacher)]
    loss_fn = ASKDSettings().build(
        LossContext(student_dim=2, teacher_dim=2, student_maps=shapes[0], teacher_maps=shapes[1])
    )
    nothing = torch.zeros(4, 2)
    loss = loss_fn(
        student=ModelOutputs(embedding=nothing, maps=tuple(student)),
        teacher=ModelOutputs(embedding=nothing, maps=tuple(teacher)),
    )
    expected = attention_distance(student[0], teacher[1]) + attention_distance(student[1], teacher[2])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    for tensor in student:
        assert tensor.grad is not None
        assert (tensor.grad != 0).any()
    assert all(tensor.grad is None for tensor in teacher)
    assert not loss_fn.state_dict()


def test_is_zero_on_equal_maps() -> None:
    maps = random(0, 4, 3, 2, 5)
    torch.testing.assert_close(attention_distance(maps, maps), torch.tensor(0.0), rtol=0, atol=1e-6)


def test_defaults_are_the_published_ones() -> None:
    assert ASKDSettings().weight == 5.0
    assert ASKDSettings.needs == {"paired_views", "feature_maps"}
    assert not ASKDSettings.same_width


def test_refuses_networks_without_stages() -> None:
    with pytest.raises(ValueError, match="stages must be given of both networks"):
        ASKDSettings().build(LossContext(student_dim=2, teacher_dim=2))
