"""What is told and refused before a sweep: epochs, disk, hours, and a disk that is too small."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from distill.checkpoint import BEST, LAST, WEIGHTS, save_student
from distill.errors import RefusedError
from distill.students import BridgeTinySettings
from distill.training import train
from sweeps.checks import Check, size
from sweeps.estimate import Measurement, measure
from sweeps.home import Home
from sweeps.placement import Node
from sweeps.planning import disk_of, epochs_of, plan_on
from sweeps.preflight import KEPT_FREE, check_disk
from sweeps.space import SearchSpace, parse_space

SPACE = """
name: tiny
objectives: [{metric: validation/verification_accuracy, direction: maximize}]
base:
  faces: {name: embedded, size_px: 16}
  student: {name: bridge_tiny}
  training: {epochs: 9, faces_per_epoch: 640, batch_size: 64}
parameters:
  optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
search: {num_trials: 12, seed: 0}
scheduler: {name: asha, grace_epochs: 1, reduction_factor: 3}
"""
NODES = [Node(name="a", resources={"CPU": 3.0, "memory": 2.0**34})]


def space(**overrides: str) -> SearchSpace:
    values = {name.replace("__", "."): value for name, value in overrides.items()}
    return parse_space(SPACE, file="tiny.yaml", overrides=values)


@pytest.mark.parametrize(
    ("overrides", "least", "most"),
    [
        # Rungs at 1 and 3: all take 1, a third 2 more, a ninth 6 more.
        ({}, 12 * (1 + 2 / 3 + 6 / 9), 12 * 9),
        ({"scheduler__name": "none"}, 12 * 9, 12 * 9),
        ({"scheduler__name": "pbt"}, 12 * 9, 12 * 9),
        ({"scheduler__name": "median"}, 12 * 5, 12 * 9),
        # Brackets begin at 1, 3 and 9 epochs.
        ({"scheduler__name": "hyperband"}, 12 * ((1 + 2 / 3 + 6 / 9) + (3 + 6 / 3) + 9) / 3, 12 * 9),
        # A ninth completes and is trained twice more, whole; so are two finalists, four times each.
        ({"search__repeats": "3"}, 12 * (1 + 2 / 3 + 6 / 9) + 12 / 9 * 2 * 9, 12 * 3 * 9),
        ({"confirm": "{top: 2, seeds: 4}"}, 12 * (1 + 2 / 3 + 6 / 9) + 8 * 9, (12 + 8) * 9),
    ],
)
def test_epochs_lie_between_those_of_first_rungs_and_all(
    overrides: dict[str, str], least: float, most: float
) -> None:
    epochs = epochs_of(space(**overrides))
    assert (epochs.least, epochs.most) == (pytest.approx(least), most)


def test_disk_counts_what_trials_write(tmp_path: Path) -> None:
    home = Home.at(str(tmp_path), tracking_uri="http://tracker")
    config = space().config(space().first_point())
    small = config.model_copy(
        update={"training": config.training.model_copy(update={"epochs": 1, "faces_per_epoch": 64})}
    )
    train(small, report=lambda metrics, checkpoint: None, directory=tmp_path / "trial")
    state = (tmp_path / "trial" / LAST).stat().st_size
    student = (tmp_path / "trial" / BEST / WEIGHTS).stat().st_size
    disk = disk_of(space(keep__students="4"), at_once=2, home=home)
    assert disk.states == pytest.approx(2 * 3 * state, rel=0.1)
    assert disk.students == pytest.approx((2 + 4) * student, rel=0.1)
    assert disk.cache == 0
    assert disk.total == disk.states + disk.students + disk.records


def test_a_home_without_a_tracking_server_keeps_students_twice(tmp_path: Path) -> None:
    server = disk_of(space(), at_once=1, home=Home.at(str(tmp_path), tracking_uri="http://tracker"))
    database = disk_of(space(), at_once=1, home=Home.at(str(tmp_path)))
    assert (server.students, database.students) == (11 * server.students // 11, 21 * server.students // 11)


def test_embeddings_that_are_there_already_take_no_more_disk(tmp_path: Path) -> None:
    labelled = space(
        **{"base.method": "{name: sface, num_classes: 64, images_per_class: 8}", "keep__students": "1"}
    )
    home = Home.at(str(tmp_path))
    needed = 2 * 64 * 8 * 128 * 4
    assert disk_of(labelled, at_once=1, home=home).cache == needed
    folder = tmp_path / "cache" / "embeddings" / "abc"
    folder.mkdir(parents=True)
    (folder / "embeddings").write_bytes(bytes(1000))
    assert disk_of(labelled, at_once=1, home=home).cache == needed - 1000


@pytest.mark.slow
def test_a_plan_is_made_of_measured_steps(tmp_path: Path) -> None:
    plan = plan_on(space(), NODES, Home.at(str(tmp_path)))
    assert (plan.points, plan.trainings, plan.placement.trials) == (12, 12, 3)
    measured = plan.measured
    assert isinstance(measured, Measurement)
    assert measured.num_threads == 1
    epoch_s = 10 * measured.step_s + measured.evaluation_s
    assert plan.hours is not None
    assert plan.hours.least == pytest.approx(plan.epochs.least * epoch_s / 3 / 3600)
    assert plan.hours.most == pytest.approx(12 * 9 * epoch_s / 3 / 3600)
    lines = str(plan).splitlines()
    assert lines[2] == "at once      3 on 1 node: 3 on a"
    assert "ms and an evaluation" in str(plan)
    assert "on 1 thread of this machine" in str(plan)
    assert plan.as_dict()["disk"]["total"] == plan.disk.total
    assert list(tmp_path.iterdir()) == []


def test_hours_are_not_invented(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    nodes = [Node(name="a", resources={"CPU": 3.0, "GPU": 1.0, "memory": 2.0**34})]
    plan = plan_on(space(resources__gpus_per_worker="0.5"), nodes, Home.at(str(tmp_path)))
    assert (plan.placement.trials, plan.hours, plan.gpu_hours) == (2, None, None)
    assert "hours        not estimated: trials train on GPUs, and this machine has none" in str(plan)


@pytest.mark.slow
def test_a_trial_that_does_not_start_here_says_why(tmp_path: Path) -> None:
    student = BridgeTinySettings()
    save_student(
        student.build(embedding_dim=32, size_px=16),
        tmp_path / "teacher",
        student=student,
        embedding_dim=32,
        size_px=16,
        epoch=1,
        metrics={},
        teacher_digest="",
    )
    taught = space(**{"base.teacher": f"{{name: distilled, folder: {tmp_path}/teacher}}"})
    config = taught.config(taught.first_point())
    shutil.rmtree(tmp_path / "teacher")
    assert measure(config, num_threads=1) == (
        f"a trial does not start here (teacher.folder: {tmp_path}/teacher is not a student's folder: "
        "it has no student.json)"
    )


def test_what_cannot_be_placed_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="a worker takes 8 CPU and the biggest node, a, has 3 CPU"):
        plan_on(space(resources__cpus_per_worker="8"), NODES, Home.at(str(tmp_path)))


@pytest.mark.skipif(os.getuid() != 0, reason="a small disk takes root")
def test_a_disk_that_is_too_small_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", str(tmp_path)], check=True)
    try:
        home = Home.at(str(tmp_path / "home"))
        assert check_disk(home, 100 * 2**20 - KEPT_FREE - 2**16).ok
        check = check_disk(home, 50 * 2**20)
        assert check == Check(
            name="disk",
            ok=False,
            finding=f"the disk under {tmp_path}/home has 100.0 MiB free, and the sweep takes about 50.0 MiB "
            "beside 64.0 MiB for records: make room, or choose another with --home",
        )
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0.0 KiB"), (2048, "2.0 KiB"), (5 * 2**20, "5.0 MiB"), (3 * 2**40, "3072.0 GiB")],
)
def test_sizes_are_told_as_people_read_them(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text
