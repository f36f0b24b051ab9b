"""DarkRank, against its likelihood in plain floats."""

import math
from itertools import permutations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from distill.losses.darkrank import DarkRankSettings, darkrank
from tests.distill.losses.by_hand import Row, mean, unit_rows


def faces(seed: int, width: int = 4, count: int = 6) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def likelihood(ranked: list[float]) -> float:
    """The product of each one's odds against those that are left."""
    odds = [math.exp(score) for score in ranked]
    return math.prod(odds[i] / sum(odds[i:]) for i in range(len(odds)))


def score(a: Row, b: Row, alpha: float, beta: float) -> float:
    return -alpha * math.dist(a, b) ** beta


@pytest.mark.parametrize(("alpha", "beta", "length"), [(3.0, 3.0, 4), (3.0, 3.0, 3), (0.5, 1.0, 5)])
def test_matches_the_likelihood_of_the_teachers_ranking(alpha: float, beta: float, length: int) -> None:
    student, teacher = faces(0), faces(1, width=3)
    s, t = unit_rows(student), unit_rows(teacher)
    losses = []
    for query in range(6):
        candidates = [(query + step) % 6 for step in range(1, length + 1)]
        candidates.sort(key=lambda other: math.dist(t[query], t[other]))
        losses.append(-math.log(likelihood([score(s[query], s[c], alpha, beta) for c in candidates])))
    value = darkrank(student, teacher, alpha=alpha, beta=beta, list_length=length)
    assert value.item() == pytest.approx(mean(losses), rel=1e-4)


def test_a_student_that_cannot_tell_candidates_apart_guesses() -> None:
    # Corners of a simplex are equally far from one another: each of 4! rankings is as likely.
    assert darkrank(torch.eye(5), faces(1, count=5)).item() == pytest.approx(math.log(24), rel=1e-5)


def test_the_naive_likelihood_is_one() -> None:
    assert sum(likelihood(list(ranking)) for ranking in permutations([0.3, -1.0, 2.0])) == pytest.approx(1)


def test_agreeing_is_better_than_the_reverse() -> None:
    line = torch.tensor([[math.cos(a), math.sin(a)] for a in (0.0, 0.3, 0.8, 1.5)])
    swapped = line[[0, 3, 2, 1]]
    assert darkrank(line, line, list_length=3) < darkrank(line, swapped, list_length=3)


def test_ties_go_to_the_face_that_follows_sooner() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    teacher = torch.eye(3)
    near, far = -3 * math.sqrt(2) ** 3, -3 * 2.0**3
    rankings = [[near, far], [near, near], [far, near]]
    expected = mean([-math.log(likelihood(ranking)) for ranking in rankings])
    assert darkrank(student, teacher, list_length=2).item() == pytest.approx(expected, rel=1e-5)


def test_refuses_more_candidates_than_faces() -> None:
    with pytest.raises(ValueError, match="list_length must be below the number of faces 4, got 4"):
        darkrank(faces(0, count=4), faces(1, count=4))


def test_settings_are_the_published() -> None:
    settings = DarkRankSettings()
    assert (settings.alpha, settings.beta, settings.list_length, settings.weight) == (3, 3, 4, 1)
    assert settings.min_batch_size == 5
    assert DarkRankSettings(list_length=3).min_batch_size == 4
    assert not settings.needs
    assert not settings.same_width


@pytest.mark.parametrize("values", [{"alpha": 0.0}, {"beta": 0.5}, {"list_length": 1}])
def test_refuses_what_ranks_nothing(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        DarkRankSettings.model_validate(values)
