"""Similarity-preserving distillation, against its equation in plain floats."""

import math

import pytest
import torch
from torch import Tensor

from distill.losses.similarity_preserving import SimilarityPreservingSettings, similarity_preserving
from tests.distill.losses.by_hand import dot, unit


def faces(seed: int, width: int = 4) -> Tensor:
    return torch.randn(5, width, generator=torch.Generator().manual_seed(seed))


def matrix(raw: Tensor) -> list[list[float]]:
    rows = raw.tolist()
    return [unit([dot(a, b) for b in rows]) for a in rows]


def test_matches_the_equation() -> None:
    student, teacher = faces(0), 3 * faces(1, width=3)
    s, t = matrix(student), matrix(teacher)
    squares = [(s[i][j] - t[i][j]) ** 2 for i in range(5) for j in range(5)]
    assert similarity_preserving(student, teacher).item() == pytest.approx(sum(squares) / 25, rel=1e-5)


def test_two_faces_by_hand() -> None:
    student, teacher = torch.eye(2), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    # The student's rows are (1, 0) and (0, 1), both of the teacher's (1, 2) / sqrt(5).
    one, two = 1 / math.sqrt(5), 2 / math.sqrt(5)
    expected = ((1 - one) ** 2 + two**2 + one**2 + (1 - two) ** 2) / 4
    assert similarity_preserving(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_is_at_most_four_over_the_batch() -> None:
    student, teacher = torch.tensor([[1.0], [1e-3]]), torch.tensor([[1.0], [-1e3]])
    loss = similarity_preserving(student, teacher).item()
    # Row 1 is (1, 0) against (0, -1), row 2 (1, 0) against (0, 1).
    assert loss == pytest.approx(1.0, rel=1e-2)
    assert loss <= 4 / 2


def test_a_norm_matters_within_the_batch_alone() -> None:
    student, teacher = faces(0), faces(1)
    torch.testing.assert_close(
        similarity_preserving(7 * student, 0.1 * teacher), similarity_preserving(student, teacher)
    )
    stretched = student * torch.tensor([5.0, 1, 1, 1, 1])[:, None]
    assert not torch.isclose(
        similarity_preserving(stretched, teacher), similarity_preserving(student, teacher)
    )


def test_settings() -> None:
    settings = SimilarityPreservingSettings()
    assert settings.weight == 1
    assert settings.min_batch_size == 2
    assert not settings.needs
    assert not settings.same_width
