"""The training loop as a function: it learns, repeats itself, continues, and refuses what is not finite."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill.checkpoint import (
    BEST,
    LAST,
    WEIGHTS,
    load_student,
    read_card,
    read_notes,
    take_over_state,
)
from distill.config import ScheduleSettings, TrialConfig
from distill.errors import DivergenceError, TeacherError
from distill.training import Process, train
from distill.training.loop import Trainer, learning_rate_share
from distill.training.parts import frozen_parts
from tests.distill.losses.workers import on_workers


def small(**changes) -> TrialConfig:
    """A trial of seconds: 16 px faces, a few steps an epoch."""
    settings = {
        "faces": {"name": "embedded", "size_px": 16},
        "training": {"epochs": 2, "faces_per_epoch": 256, "batch_size": 32},
        "optimizer": {"lr": 2e-3},
        "schedule": {"name": "constant"},
    }
    return TrialConfig.model_validate(settings | changes)


class Reports(list):
    """Remembers what was reported."""

    def __call__(self, metrics: dict[str, float], checkpoint: Path) -> None:
        self.append(metrics)


def comparable(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "train/faces_per_second"}


@pytest.mark.slow
def test_the_student_comes_to_agree_with_the_teacher(tmp_path: Path) -> None:
    reports = Reports()
    epochs = {"epochs": 3, "faces_per_epoch": 2048, "batch_size": 64}
    train(small(training=epochs), report=reports, directory=tmp_path)
    similarities = [report["validation/teacher_similarity"] for report in reports]
    assert similarities[-1] > max(0.5, similarities[0])


def test_every_epoch_is_reported_once_and_counted_from_one(tmp_path: Path) -> None:
    reports = Reports()
    train(small(), report=reports, directory=tmp_path)
    assert [report["epoch"] for report in reports] == [1, 2]


def test_the_same_seed_gives_the_same_student(tmp_path: Path) -> None:
    first, second = Reports(), Reports()
    train(small(), report=first, directory=tmp_path / "first")
    train(small(), report=second, directory=tmp_path / "second")
    assert [comparable(report) for report in first] == [comparable(report) for report in second]
    weights = [load_file(tmp_path / name / BEST / WEIGHTS) for name in ("first", "second")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_seed_gives_another_student(tmp_path: Path) -> None:
    first, second = Reports(), Reports()
    train(small(), report=first, directory=tmp_path / "first")
    train(small(seed=1), report=second, directory=tmp_path / "second")
    assert first[-1]["train/loss"] != second[-1]["train/loss"]


def test_a_training_that_was_cut_off_continues_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, rest = Reports(), Reports()
    train(small(), report=whole, directory=tmp_path / "whole")

    class PowerCutError(Exception):
        pass

    def cut(metrics: dict[str, float], checkpoint: Path) -> None:
        raise PowerCutError

    with pytest.raises(PowerCutError):
        train(small(), report=cut, directory=tmp_path / "cut")
    train(small(), report=rest, directory=tmp_path / "cut")
    assert [comparable(report) for report in rest] == [comparable(whole[1])]


@pytest.mark.parametrize(("heard", "told"), [(0, [1, 2, 3]), (1, [2, 3]), (2, [3]), (None, [3])])
def test_epochs_that_nobody_heard_of_are_told_first(
    heard: int | None, told: list[int], tmp_path: Path
) -> None:
    before, rest = Reports(), Reports()
    train(small(), report=before, directory=tmp_path)
    longer = {"epochs": 3, "faces_per_epoch": 256, "batch_size": 32}
    train(small(training=longer), report=rest, directory=tmp_path, told_epochs=heard)
    assert [report["epoch"] for report in rest] == told
    assert [*rest][:-1] == [report for report in before if report["epoch"] in told]


def test_a_training_that_was_over_before_its_end_was_heard_of_is_told_and_not_repeated(
    tmp_path: Path,
) -> None:
    before, rest = Reports(), Reports()
    best = train(small(), report=before, directory=tmp_path)
    state = (tmp_path / LAST).read_bytes()
    assert train(small(), report=rest, directory=tmp_path, told_epochs=1) == best
    assert [*rest] == [before[1]]
    assert (tmp_path / LAST).read_bytes() == state


def test_another_trial_that_takes_over_a_state_has_its_best_student_and_tells_its_epochs(
    tmp_path: Path,
) -> None:
    before, rest = Reports(), Reports()
    best = train(small(), report=before, directory=tmp_path / "first")
    train(
        small(),
        report=rest,
        directory=tmp_path / "second",
        continue_from=tmp_path / "first",
        told_epochs=0,
    )
    assert [*rest] == [*before]
    assert load_student(tmp_path / "second" / BEST)[1].metrics == best


def test_what_a_state_measured_is_not_taken_over_where_trials_exchange_states(tmp_path: Path) -> None:
    rest = Reports()
    train(small(), report=Reports(), directory=tmp_path / "donor")
    (tmp_path / "own").mkdir()
    take_over_state(tmp_path / "donor", tmp_path / "own")
    train(small(), report=rest, directory=tmp_path / "own", told_epochs=0)
    assert [*rest] == []


def test_another_trial_takes_over_a_state_and_leaves_it_where_it_was(tmp_path: Path) -> None:
    first, second = Reports(), Reports()
    train(small(), report=first, directory=tmp_path / "first")
    before = (tmp_path / "first" / LAST).read_bytes()
    longer = {"epochs": 3, "faces_per_epoch": 256, "batch_size": 32}
    train(
        small(training=longer), report=second, directory=tmp_path / "second", continue_from=tmp_path / "first"
    )
    assert [report["epoch"] for report in second] == [3]
    assert (tmp_path / "first" / LAST).read_bytes() == before


def test_the_best_student_on_disk_gives_the_metrics_that_its_card_says(tmp_path: Path) -> None:
    reports = Reports()
    best = train(small(), report=reports, directory=tmp_path)
    student, card = load_student(tmp_path / BEST)
    assert card.metrics == best == max(reports, key=lambda report: report["validation/verification_accuracy"])
    assert not student.training


def test_selection_can_be_for_less_of_a_metric(tmp_path: Path) -> None:
    reports = Reports()
    selection = {"metric": "validation/teacher_mse", "direction": "minimize"}
    train(small(selection=selection), report=reports, directory=tmp_path)
    card = read_card(tmp_path / BEST)
    assert card.metrics["validation/teacher_mse"] == min(
        report["validation/teacher_mse"] for report in reports
    )


def test_a_diverging_training_raises_and_keeps_nothing_of_that_epoch(tmp_path: Path) -> None:
    reports = Reports()
    with pytest.raises(DivergenceError, match="diverged"):
        train(small(optimizer={"lr": 1e30}), report=reports, directory=tmp_path)
    assert reports == []
    assert not (tmp_path / LAST).exists()


def test_never_trains_against_a_teacher_that_is_not_there(tmp_path: Path) -> None:
    teacher = {"name": "embedded", "weights": str(tmp_path / "nowhere.safetensors"), "sha256": "0" * 64}
    with pytest.raises(TeacherError, match="nowhere"):
        train(small(teacher=teacher), report=Reports(), directory=tmp_path / "trial")


def test_losses_that_the_trial_names_replace_the_published_one(tmp_path: Path) -> None:
    reports = Reports()
    losses = {"cosine": {"weight": 2.0}, "unit_mse": {"weight": 1.0}}
    train(small(losses=losses), report=reports, directory=tmp_path)
    terms = {name for name in reports[0] if name.startswith("train/loss/")}
    assert terms == {"train/loss/cosine", "train/loss/unit_mse"}
    assert reports[0]["train/loss"] == pytest.approx(sum(reports[0][name] for name in terms), rel=1e-5)


@pytest.mark.parametrize("mode", ["adaptive_w", "constant_w", "adaptive_z", "inverted_w", "off"])
def test_every_mode_takes_as_many_steps(tmp_path: Path, mode: str) -> None:
    training = {"epochs": 1, "faces_per_epoch": 160, "batch_size": 32}
    train(
        small(method={"name": "synthdistill", "resampling": mode}, training=training),
        report=Reports(),
        directory=tmp_path,
    )
    assert torch.load(tmp_path / LAST, weights_only=True)["step"] == 5


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (ScheduleSettings(name="constant"), 35, 1.0),
        (ScheduleSettings(name="step", step_epochs=2, gamma=0.5), 19, 1.0),
        (ScheduleSettings(name="step", step_epochs=2, gamma=0.5), 20, 0.5),
        (ScheduleSettings(name="step", step_epochs=1, gamma=0.1), 35, 1e-3),
        (ScheduleSettings(name="cosine"), 0, 1.0),
        (ScheduleSettings(name="cosine"), 20, 0.5),
        (ScheduleSettings(name="cosine", final_share=0.2), 40, 0.2),
    ],
)
def test_the_learning_rate_falls_as_the_schedule_says(
    schedule: ScheduleSettings, step: int, expected: float
) -> None:
    share = learning_rate_share(schedule, step=step, steps_per_epoch=10, epochs=4)
    assert math.isclose(share, expected)


BRIEF = {"epochs": 1, "faces_per_epoch": 64, "batch_size": 32}


def test_a_cache_changes_where_embeddings_are_kept_and_nothing_else(tmp_path: Path) -> None:
    config = small(
        training=BRIEF,
        method={"name": "sface", "num_classes": 16, "images_per_class": 8, "faces_per_class": 2},
        losses={"cosine": {"weight": 1.0}, "hinton_kl": {"weight": 1.0}},
    )
    in_memory, in_file = Reports(), Reports()
    train(config, report=in_memory, directory=tmp_path / "memory")
    train(config, report=in_file, directory=tmp_path / "file", cache=tmp_path / "caches")
    assert [*map(comparable, in_file)] == [*map(comparable, in_memory)]
    assert len(list((tmp_path / "caches").glob("*/card.json"))) == 1


@pytest.mark.parametrize(("seen_by", "cached"), [("student", None), ("both", 0.0)])
def test_augmented_faces_train_a_student_and_it_is_recorded_where_nothing_is_cached(
    tmp_path: Path, seen_by: str, cached: float | None
) -> None:
    reports = Reports()
    augmentation = {"seen_by": seen_by, "least_area": 0.6, "brightness": 0.2}
    method = {"name": "sface", "num_classes": 16, "images_per_class": 8, "augmentation": augmentation}
    train(small(method=method, training=BRIEF), report=reports, directory=tmp_path, cache=tmp_path / "caches")
    assert reports[-1].get("train/teacher_cached") == cached
    assert (tmp_path / "caches").exists() == (cached is None)


def test_a_damaged_state_costs_one_epoch_and_is_noted(tmp_path: Path) -> None:
    whole, rest = Reports(), Reports()
    longer = {"epochs": 3, "faces_per_epoch": 256, "batch_size": 32}
    train(small(training=longer), report=whole, directory=tmp_path)
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:-99])
    train(small(training=longer), report=rest, directory=tmp_path)
    assert [comparable(report) for report in rest] == [comparable(whole[2])]
    (note,) = read_notes(tmp_path)
    assert "last.pt; the training goes on from previous.pt" in note


def go_on(config: TrialConfig, disks: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Trains as one of several workers, each with a disk of its own; the epochs that it told, its weights."""
    process, trainers, reports = Process.current(), list[Trainer](), Reports()
    begin = Trainer.restore

    def restore(trainer: Trainer, state: dict[str, Any]) -> dict[str, float]:
        trainers.append(trainer)
        return begin(trainer, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "restore", restore)
        train(config, report=reports, directory=disks / f"{process.shard.rank}")
    (trainer,) = trainers
    weights = {name: weight.detach() for name, weight in trainer.student.named_parameters()}
    return [report["epoch"] for report in reports], weights


@pytest.mark.slow
@pytest.mark.parametrize("others_epochs", [0, 3])
def test_workers_whose_disks_know_of_different_epochs_go_on_from_the_leaders(
    tmp_path: Path, others_epochs: int
) -> None:
    """As after a kill, where each machine has what it wrote itself, or what was handed on to it before."""
    whole = {"epochs": 4, "faces_per_epoch": 64, "batch_size": 32}
    for disk, epochs in enumerate((2, others_epochs)):
        if epochs:
            config = small(training=whole | {"epochs": epochs}, seed=disk)
            train(config, report=Reports(), directory=tmp_path / f"{disk}")
    (tmp_path / "results").mkdir()
    told = on_workers(go_on, small(training=whole), tmp_path, world_size=2, directory=tmp_path / "results")
    (led, led_weights), (followed, followed_weights) = told
    assert (led, followed) == ([3, 4], [])
    assert all(torch.equal(led_weights[name], followed_weights[name]) for name in led_weights)


def test_a_training_goes_on_with_settings_of_its_own(tmp_path: Path) -> None:
    """The optimiser's memory is that of the state; its rates are the config's."""
    optimizer = {"lr": 2e-3, "weight_decay": 0.1, "betas": (0.8, 0.9)}
    train(small(), report=Reports(), directory=tmp_path)
    state = torch.load(tmp_path / LAST, weights_only=True)
    config = small(optimizer=optimizer)
    process = Process.current()
    trainer = Trainer(config, frozen_parts(config.faces, config.teacher, process.device), process)
    trainer.restore(state)
    (group,) = trainer._optimizer.param_groups
    assert (group["weight_decay"], group["betas"]) == (0.1, (0.8, 0.9))
    moments = [kept["exp_avg"] for kept in trainer.state()["optimizer"]["state"].values()]
    assert all(
        torch.equal(moment, kept["exp_avg"])
        for moment, kept in zip(moments, state["optimizer"]["state"].values(), strict=True)
    )
