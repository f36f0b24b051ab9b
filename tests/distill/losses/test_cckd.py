"""Correlation congruence, against its equation in plain floats."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from distill.losses.cckd import CCKDSettings, cckd
from distill.losses.similarity_preserving import similarity_preserving
from tests.distill.losses.by_hand import Row, dot, mean, unit_rows


def faces(seed: int, width: int = 4) -> Tensor:
    return torch.randn(5, width, generator=torch.Generator().manual_seed(seed))


def series(a: Row, b: Row, gamma: float, order: int) -> float:
    return sum(
        math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * dot(a, b) ** p for p in range(order + 1)
    )


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 1), (0.4, 2), (1.5, 3)])
def test_matches_the_equation(gamma: float, order: int) -> None:
    student, teacher = faces(0), faces(1, width=3)
    s, t = unit_rows(student), unit_rows(teacher)
    expected = mean(
        [
            (series(s[i], s[j], gamma, order) - series(t[i], t[j], gamma, order)) ** 2
            for i in range(5)
            for j in range(5)
        ]
    )
    assert cckd(student, teacher, gamma=gamma, order=order).item() == pytest.approx(expected, rel=1e-5)


def test_two_faces_by_hand() -> None:
    student, teacher = torch.eye(2), torch.tensor([[3.0, 0.0], [5.0, 0.0]])
    # The cosine across is 0 to the student and 1 to the teacher, in two of four cells.
    expected = (math.exp(-0.8) * 0.8) ** 2 / 2
    assert cckd(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_a_long_series_is_the_gaussian_kernel() -> None:
    student, teacher = faces(0), faces(1)
    s, t = unit_rows(student), unit_rows(teacher)
    expected = mean(
        [
            (math.exp(-0.4 * math.dist(s[i], s[j]) ** 2) - math.exp(-0.4 * math.dist(t[i], t[j]) ** 2)) ** 2
            for i in range(5)
            for j in range(5)
        ]
    )
    assert cckd(student, teacher, gamma=0.4, order=12).item() == pytest.approx(expected, rel=1e-4)


def test_order_one_compares_cosines() -> None:
    student, teacher = (torch.nn.functional.normalize(faces(seed)) for seed in (0, 1))
    cosines = (student @ student.T - teacher @ teacher.T).square().mean()
    torch.testing.assert_close(cckd(student, teacher, gamma=0.7, order=1), math.exp(-2.8) * 1.4**2 * cosines)
    assert not torch.isclose(cosines, similarity_preserving(student, teacher))


def test_settings_are_the_published() -> None:
    settings = CCKDSettings()
    assert (settings.gamma, settings.order, settings.weight) == (0.4, 1, 1)
    assert settings.min_batch_size == 2
    assert not settings.needs
    assert not settings.same_width


@pytest.mark.parametrize("values", [{"order": 0}, {"gamma": 0.0}])
def test_refuses_a_kernel_that_says_nothing(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        CCKDSettings.model_validate(values)
