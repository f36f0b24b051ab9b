"""Every method, loss and margin on two workers: they train the student that one worker trains.

Batch norm is the one thing that each worker does by itself: its statistics are those of its own faces. Held
as in evaluation it treats every face alone, and then two workers must agree with one in everything, up to
rounding: in each term, in how far each weight moves, and in what losses and margins keep. In training two
workers must agree with each other.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill.config import TrialConfig
from distill.losses import LossesSettings, LossName
from distill.losses.margins import AnyMarginSettings
from distill.methods.synthdistill import QUANTILES
from distill.training import Process
from distill.training.loop import Trainer
from distill.training.parts import Parts, frozen_parts
from tests.distill.losses.workers import on_workers

pytestmark = pytest.mark.slow

NUM_STEPS = 3
SET = {"num_classes": 32, "images_per_class": 4}
FACES = {"name": "embedded", "size_px": 16}
PAIRED = {"name": "embedded", "size_px": 16, "captured_px": 32}
ADAPTER = {"name": "linear", "width": 64, "epochs": 2}
MARGINS = [get_args(m.model_fields["name"].annotation)[0] for m in get_args(get_args(AnyMarginSettings)[0])]
FOLLOWING_FAST: dict[str, dict[str, Any]] = {
    "adaface": {"t_alpha": 0.5},
    "curricularface": {"t_alpha": 0.5},
    "ekd": {"update_rate": 0.5},
}
"""Running means of which a batch is half, so that each batch shows in them."""


def trial(method: dict[str, Any], **settings: Any) -> TrialConfig:
    """A step an epoch, so that every step is reported. SGD turns small differences into small ones."""
    small: dict[str, Any] = {
        "faces": FACES,
        "method": method,
        "training": {"epochs": NUM_STEPS, "faces_per_epoch": 32, "batch_size": 32},
        "optimizer": {"name": "sgd", "lr": 1e-2, "clip_norm": 5.0},
        "schedule": {"name": "constant"},
    }
    return TrialConfig.model_validate(small | settings)


def loss_trial(name: str) -> TrialConfig:
    """A loss that alone moves the student, unless it needs a classifier or leaves embeddings to one."""
    needs = LossesSettings.model_validate({"only": name}).named()[name].needs
    strategy = "combined" if needs & {"classifier", "feature_maps"} else "transfer"
    method: dict[str, Any] = {"name": "sface", "strategy": strategy, "faces_per_class": 4, **SET}
    faces = FACES
    if "paired_views" in needs:
        method |= {"name": "bridge", "adapter": {"name": "none"}}
        faces = PAIRED
    return trial(method, losses={"only": name, name: FOLLOWING_FAST.get(name, {})}, faces=faces)


def margin_trial(name: str) -> TrialConfig:
    method = {"name": "sface", "strategy": "classification", **SET}
    return trial(method, margin={"name": name, **FOLLOWING_FAST.get(name, {})})


METHODS = {
    "synthdistill": trial({"name": "synthdistill"}),
    "sface classification": trial({"name": "sface", "strategy": "classification", **SET}),
    "sface transfer": trial({"name": "sface", "strategy": "transfer", **SET}),
    "sface combined": trial({"name": "sface", **SET}),
    "fair_kd combined": trial({"name": "fair_kd", "authentic_share": 0.5, **SET}, margin={"name": "adaface"}),
    "bridge combined": trial({"name": "bridge", "adapter": ADAPTER, **SET}, faces=PAIRED),
    "bridge mixed": trial(
        {"name": "bridge", "resolution": "mixed", "adapter": {"name": "none"}, **SET},
        faces={"name": "embedded", "size_px": 24, "captured_px": 32},
    ),
}
TRIALS = {
    **METHODS,
    **{f"losses.{name}": loss_trial(name) for name in get_args(LossName)},
    **{f"margin.{name}": margin_trial(name) for name in MARGINS},
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one worker has after `NUM_STEPS` steps.

    Attributes:
        steps: The means that each step reported, by metric name.
        moved: How far each weight of student, classifier and losses went from where it began, by name.
        kept: What losses and margins remember, by name.
        statistics: What batch norm remembers, by name.
        method: What the method needs to continue, of all workers.
    """

    steps: list[dict[str, float]]
    moved: dict[str, Tensor]
    kept: dict[str, Tensor]
    statistics: dict[str, Tensor]
    method: dict[str, Any]


def train(config: TrialConfig, *, face_by_face: bool) -> Training:
    """Trains this worker's share.

    Args:
        face_by_face: Whether batch norm stays as in evaluation, where no face depends on another.
    """
    process = Process.current()
    trainer = Trainer(config, _few(frozen_parts(config.faces, config.teacher, process.device)), process)
    learner = trainer._learner
    norms = {name: module for name, module in learner.named_modules() if isinstance(module, _BatchNorm)}
    if face_by_face:
        learner.register_forward_pre_hook(lambda module, inputs: _evaluating(norms.values()))
    before = {name: parameter.detach().clone() for name, parameter in learner.named_parameters()}
    steps = [trainer.train_epoch() for _ in range(NUM_STEPS)]
    kept_state = trainer.state()
    state = {name: tensor.clone() for name, tensor in kept_state["learner"].items()}
    buffers = {name: tensor for name, tensor in state.items() if name not in before}
    return Training(
        steps=[{name: mean for name, mean in step.items() if "per_second" not in name} for step in steps],
        moved={name: state[name] - parameter for name, parameter in before.items()},
        kept={name: tensor for name, tensor in buffers.items() if name.rpartition(".")[0] not in norms},
        statistics={name: tensor for name, tensor in buffers.items() if name.rpartition(".")[0] in norms},
        method=kept_state["method"],
    )


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one worker has of every trial, by name: with batch norm as in evaluation, and as usual."""

    face_by_face: dict[str, Training]
    as_usual: dict[str, Training]


def train_share() -> Share:
    return Share(
        face_by_face={name: train(config, face_by_face=True) for name, config in TRIALS.items()},
        as_usual={name: train(config, face_by_face=False) for name, config in METHODS.items()},
    )


def _few(parts: Parts) -> Parts:
    """Fewer faces of those on which teacher and student are compared after an epoch, which none here is."""
    return replace(
        parts,
        agreement_faces=parts.agreement_faces[:2],
        student_faces=parts.student_faces[:2],
        agreement_embeddings=parts.agreement_embeddings[:2],
    )


def _evaluating(norms: Iterable[nn.Module]) -> None:
    for norm in norms:
        norm.eval()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    (share,) = on_workers(train_share, world_size=1, directory=tmp_path_factory.mktemp("one"))
    return share.face_by_face


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[Share]:
    return on_workers(train_share, world_size=2, directory=tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def two(shares: list[Share]) -> list[dict[str, Training]]:
    return [share.face_by_face for share in shares]


@pytest.mark.parametrize("name", TRIALS)
def test_every_term_of_every_step_is_the_mean_over_workers(
    name: str, one: dict[str, Training], two: list[dict[str, Training]]
) -> None:
    for alone, *shares in zip(one[name].steps, *(worker[name].steps for worker in two), strict=True):
        assert [set(share) for share in shares] == [set(alone)] * len(shares)
        for metric, value in alone.items():
            if metric.endswith(tuple(QUANTILES)):
                continue  # of each worker's share: the quantiles of parts have no such mean
            mean = sum(share[metric] for share in shares) / len(shares)
            assert mean == pytest.approx(value, rel=5e-4, abs=1e-5), metric


@pytest.mark.parametrize("name", TRIALS)
def test_two_workers_move_every_weight_as_one_does(
    name: str, one: dict[str, Training], two: list[dict[str, Training]]
) -> None:
    for worker in two:
        for weight, alone in one[name].moved.items():
            distance = torch.linalg.vector_norm(worker[name].moved[weight] - alone)
            assert distance <= 0.01 * torch.linalg.vector_norm(alone) + 1e-6, weight


@pytest.mark.parametrize("name", [name for name in TRIALS if name not in METHODS])
def test_what_losses_and_margins_keep_is_that_of_the_whole_batch(
    name: str, one: dict[str, Training], two: list[dict[str, Training]]
) -> None:
    for worker in two:
        torch.testing.assert_close(worker[name].kept, one[name].kept, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_every_worker_could_continue_for_all_of_them(
    name: str, one: dict[str, Training], two: list[dict[str, Training]]
) -> None:
    for worker in two:
        torch.testing.assert_close(worker[name].method, one[name].method, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_workers_stay_together_whatever_batch_norm_sees(name: str, shares: list[Share]) -> None:
    first, second = (share.as_usual[name] for share in shares)
    torch.testing.assert_close(first.moved, second.moved, rtol=0, atol=0)
    torch.testing.assert_close(first.kept, second.kept, rtol=0, atol=0)
    # Each saw other faces in the last step: what is equal above is equal for a better reason.
    assert any(not torch.equal(first.statistics[key], second.statistics[key]) for key in first.statistics)
