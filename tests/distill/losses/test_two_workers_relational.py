"""Two workers with half the batch each learn from it what one learns from all of it."""

from pathlib import Path

import pytest
import torch

from distill.losses.base import LossSettings
from distill.losses.cckd import CCKDSettings
from distill.losses.darkrank import DarkRankSettings
from distill.losses.ekd import EKDSettings
from distill.losses.rkd import RKDSettings
from distill.losses.similarity_preserving import SimilarityPreservingSettings
from distill.losses.triplet_distillation import TripletDistillationSettings
from tests.distill.losses.workers import Faces, Lesson, learn, on_workers

LOSSES: dict[str, LossSettings] = {
    "rkd": RKDSettings(),
    "cckd": CCKDSettings(),
    "similarity_preserving": SimilarityPreservingSettings(),
    "darkrank": DarkRankSettings(),
    "triplet_distillation": TripletDistillationSettings(),
    "ekd": EKDSettings(temperature=0.1, update_rate=0.3),
}
RELATIVE_ERROR = {"rkd": 1e-5}
"""RKD computes in float32, the others in the float64 that they are given."""


def faces(seed: int) -> Faces:
    rng = torch.Generator().manual_seed(seed)
    return Faces(
        input_NI=torch.randn(8, 5, generator=rng).double(),
        teacher_ND=torch.randn(8, 6, generator=rng).double(),
        # No class is whole on a worker: its genuine pairs exist in the gathered batch alone.
        labels_N=torch.tensor([0, 1, 2, 3, 3, 2, 1, 0]),
    )


BATCHES = [faces(0), faces(1)]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Lesson]]]:
    directory: Path = tmp_path_factory.mktemp("workers")
    return on_workers(learn, LOSSES, BATCHES, world_size=2, directory=directory)


@pytest.fixture(scope="module")
def of_one() -> dict[str, list[Lesson]]:
    return learn(LOSSES, BATCHES)


@pytest.mark.parametrize("name", LOSSES)
def test_two_workers_agree_with_one(
    name: str, of_two: list[dict[str, list[Lesson]]], of_one: dict[str, list[Lesson]]
) -> None:
    rtol = RELATIVE_ERROR.get(name, 1e-10)
    for worker in of_two:
        for lesson, expected in zip(worker[name], of_one[name], strict=True):
            assert expected.value > 0
            torch.testing.assert_close(lesson.value, expected.value, rtol=rtol, atol=1e-10)
            torch.testing.assert_close(lesson.gradients, expected.gradients, rtol=rtol, atol=1e-10)
            torch.testing.assert_close(lesson.buffers, expected.buffers, rtol=rtol, atol=1e-10)


def test_workers_keep_the_same_thresholds(of_two: list[dict[str, list[Lesson]]]) -> None:
    first, second = (worker["ekd"][-1].buffers for worker in of_two)
    assert set(first) == {
        f"{whose}_thresholds.{what}" for whose in ("student", "teacher") for what in ("threshold_K", "is_set")
    }
    torch.testing.assert_close(first, second, rtol=0, atol=0)
