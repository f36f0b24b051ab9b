"""Batches in portions: the gradients of the whole, and what cannot be cut is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.config import TrialConfig
from distill.errors import InputError
from distill.methods import Batch
from distill.training import Process, train
from distill.training.loop import Trainer
from distill.training.parts import frozen_parts
from distill.training.portions import portions
from tests.distill.losses.workers import on_workers

FACES = {"name": "embedded", "size_px": 16}
SET = {"num_classes": 32, "images_per_class": 4}
METHODS: dict[str, dict[str, Any]] = {
    "synthdistill": {"method": {"name": "synthdistill"}},
    "sface": {"method": {"name": "sface", **SET}, "margin": {"name": "cosface"}},
}


def trial(*, accumulation: int = 1, **settings: Any) -> TrialConfig:
    """Two steps of a student without batch norm; SGD turns small differences into small ones."""
    small: dict[str, Any] = {
        "faces": FACES,
        "student": {"name": "edgeface"},
        "training": {"epochs": 1, "faces_per_epoch": 32, "batch_size": 16, "accumulation": accumulation},
        "optimizer": {"name": "sgd", "lr": 1e-2, "clip_norm": 5.0},
        "schedule": {"name": "constant"},
    }
    return TrialConfig.model_validate(small | settings)


def trained(config: TrialConfig) -> tuple[dict[str, float], dict[str, Tensor]]:
    """What one epoch reports, and how far it moves each weight."""
    process = Process.current()
    trainer = Trainer(config, frozen_parts(config.faces, config.teacher, process.device), process)
    learner = trainer._learner
    before = {name: weight.detach().clone() for name, weight in learner.named_parameters()}
    reported = trainer.train_epoch()
    del reported["train/faces_per_second"]
    return reported, {name: weight.detach() - before[name] for name, weight in learner.named_parameters()}


def assert_moved_alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    far = max(float(moved.abs().max()) for moved in one.values())
    for name, moved in one.items():
        torch.testing.assert_close(other[name], moved, rtol=1e-3, atol=1e-4 * far)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [3, 16])
def test_portions_add_up_to_the_whole_batch(method: str, number: int) -> None:
    reported, moved = trained(trial(**METHODS[method]))
    reported_in_portions, moved_in_portions = trained(trial(accumulation=number, **METHODS[method]))
    assert reported_in_portions == pytest.approx(reported, rel=1e-4)
    assert_moved_alike(moved, moved_in_portions)


@pytest.mark.slow
def test_two_workers_share_gradients_that_each_added_up_by_itself(tmp_path: Path) -> None:
    _, whole = trained(trial(**METHODS["sface"]))
    config = trial(accumulation=3, **METHODS["sface"])
    for _, moved in on_workers(trained, config, world_size=2, directory=tmp_path):
        assert_moved_alike(whole, moved)


def test_a_loss_that_compares_faces_sees_a_portion_at_a_time() -> None:
    relational = {"losses": {"rkd": {"weight": 1.0}}, **METHODS["synthdistill"]}
    (whole, _), (cut, _) = (trained(trial(accumulation=number, **relational)) for number in (1, 2))
    assert cut["train/loss"] != pytest.approx(whole["train/loss"], rel=1e-4)
    assert cut["train/similarity"] == pytest.approx(whole["train/similarity"], abs=0.05)


def test_portions_hold_every_face_once_and_all_that_is_known_of_it() -> None:
    label_B = torch.arange(7)
    batch = Batch(images=label_B[:, None].float(), teacher_BD=2.0 * label_B[:, None], labels_B=label_B)
    cut = portions(batch, 3)
    assert [portion.labels_B.tolist() for portion in cut if portion.labels_B is not None] == [
        [0, 1, 2],
        [3, 4],
        [5, 6],
    ]
    for portion in cut:
        assert portion.labels_B is not None
        assert portion.teacher_BD is not None
        assert portion.teacher_images is None
        assert torch.equal(2 * portion.images, portion.teacher_BD)
        assert torch.equal(portion.images[:, 0].long(), portion.labels_B)


def test_a_portion_without_a_face_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"accumulation must be at most batch_size \(16\), got 17"):
        trial(accumulation=17)
    # Memory that runs out multiplies what was validated.
    config = trial()
    more = config.model_copy(update={"training": config.training.model_copy(update={"accumulation": 32})})
    with pytest.raises(InputError, match=r"must be at most the 16 faces of a worker's share .* got 32"):
        train(more, report=lambda metrics, checkpoint: None, directory=tmp_path)


def test_a_portion_too_small_for_a_loss_is_refused(tmp_path: Path) -> None:
    config = trial(accumulation=8, losses={"rkd": {"weight": 1.0}})
    with pytest.raises(
        InputError, match=r"must leave the 3 faces in a portion that losses\.rkd needs, got 8"
    ):
        train(config, report=lambda metrics, checkpoint: None, directory=tmp_path)
