"""Relational distillation, against its equations in plain floats and triangles by hand."""

import math
from itertools import permutations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from distill.losses.rkd import RKDSettings, relative_distances, rkd, triplet_angles
from tests.distill.losses.by_hand import Row, dot, huber, mean, minus, unit, unit_rows


def faces(seed: int, width: int = 4) -> Tensor:
    return torch.randn(6, width, generator=torch.Generator().manual_seed(seed))


def on_circle(*degrees: float) -> Tensor:
    return torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in degrees])


def relative(rows: list[list[float]]) -> list[float]:
    distances = [math.dist(a, b) for a, b in permutations(rows, 2)]
    return [distance / mean(distances) for distance in distances]


def cosine_at(i: Row, j: Row, k: Row) -> float:
    return dot(unit(minus(i, j)), unit(minus(k, j)))


def test_distances_match_the_equation() -> None:
    student, teacher = faces(0), faces(1, width=3)
    pairs = zip(relative(unit_rows(student)), relative(unit_rows(teacher)), strict=True)
    expected = mean([huber(s, t) for s, t in pairs])
    assert relative_distances(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_angles_match_the_equation() -> None:
    student, teacher = faces(0), faces(1, width=3)
    s, t = unit_rows(student), unit_rows(teacher)
    expected = mean(
        [
            huber(cosine_at(s[i], s[j], s[k]), cosine_at(t[i], t[j], t[k]))
            for i, j, k in permutations(range(6), 3)
        ]
    )
    assert triplet_angles(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_a_right_triangle_against_an_equal_one() -> None:
    student, teacher = on_circle(0, 90, 180), on_circle(0, 120, 240)
    average = (2 * math.sqrt(2) + 2) / 3
    distances = (2 * (math.sqrt(2) / average - 1) ** 2 + (2 / average - 1) ** 2) / 2 / 3
    angles = ((0 - 0.5) ** 2 + 2 * (math.sqrt(0.5) - 0.5) ** 2) / 2 / 3
    assert relative_distances(student, teacher).item() == pytest.approx(distances, rel=1e-4)
    assert triplet_angles(student, teacher).item() == pytest.approx(angles, rel=1e-5)
    assert rkd(student, teacher).item() == pytest.approx(25 * distances + 50 * angles, rel=1e-4)


def test_a_far_outlier_is_past_the_square_part() -> None:
    student = torch.cat([on_circle(0, 1, 2, 3, 4), on_circle(180)])
    teacher = faces(1)
    gaps = [s - t for s, t in zip(relative(unit_rows(student)), relative(unit_rows(teacher)), strict=True)]
    assert max(gaps) > 1
    expected = mean([huber(gap, 0) for gap in gaps])
    assert relative_distances(student, teacher).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("part", [relative_distances, triplet_angles])
def test_a_turned_student_is_as_good(part) -> None:
    teacher = faces(0)
    turn, _ = torch.linalg.qr(faces(1)[:4])
    assert part(teacher @ turn, teacher).item() == pytest.approx(0, abs=1e-10)


def test_a_part_of_weight_zero_is_left_out() -> None:
    student, teacher = faces(0), faces(1)
    torch.testing.assert_close(
        rkd(student, teacher, distance_weight=2.0, angle_weight=0.0),
        2 * relative_distances(student, teacher),
    )
    torch.testing.assert_close(
        rkd(student, teacher, distance_weight=0.0, angle_weight=3.0), 3 * triplet_angles(student, teacher)
    )


def test_coinciding_faces_have_no_direction() -> None:
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    teacher = on_circle(0, 120, 240)
    # Lines from a face to its twin have cosine 0 with any other; the two faces seen from the third agree.
    at_twins, at_third = (0 - 0.5) ** 2 / 2, (1 - 0.5) ** 2 / 2
    assert triplet_angles(student, teacher).item() == pytest.approx((2 * at_twins + at_third) / 3, rel=1e-5)


@pytest.mark.parametrize("part", [relative_distances, triplet_angles])
def test_coinciding_faces_do_not_blow_gradients_up(part) -> None:
    student = faces(0)
    student[1] = student[0]
    student.requires_grad_()
    part(student, faces(1)).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 10


def test_is_computed_in_float32() -> None:
    student, teacher = faces(0), faces(1)
    loss = rkd(student.bfloat16(), teacher.bfloat16())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, rkd(student.bfloat16().float(), teacher.bfloat16().float()))


def test_refuses_angles_of_two_faces() -> None:
    with pytest.raises(ValueError, match="angles need at least 3 faces, got 2"):
        triplet_angles(faces(0)[:2], faces(1)[:2])


def test_settings_are_those_for_faces() -> None:
    settings = RKDSettings()
    assert (settings.distance_weight, settings.angle_weight, settings.weight) == (25, 50, 1)
    assert settings.min_batch_size == 3
    assert not settings.needs
    assert not settings.same_width


def test_refuses_to_compare_nothing() -> None:
    with pytest.raises(ValidationError, match="distance_weight or angle_weight must be above 0"):
        RKDSettings(distance_weight=0, angle_weight=0)
