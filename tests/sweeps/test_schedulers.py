"""Who goes on after an epoch: by each scheduler's own rule, whatever seed or attempt a trial is of."""

import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweeps.lineage import Exploit, read_lineage, record
from sweeps.population import changed, explored
from sweeps.schedulers import MEDIAN_OF, make_scheduler
from sweeps.space import SearchSpace, parse_space
from sweeps.space.parameters import CategoricalParameter, FloatParameter, IntParameter
from sweeps.task import TrialTask

METRIC = "validation/verification_accuracy"
SPACE = """
name: study
objectives: [{metric: validation/verification_accuracy, direction: maximize}]
base: {training: {epochs: 9, faces_per_epoch: 1024, batch_size: 64}}
parameters:
  optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
  optimizer.momentum: {type: float, low: 0.0, high: 0.9, step: 0.1}
search: {sampler: random, num_trials: 4}
scheduler: {name: SCHEDULER, grace_epochs: 1, reduction_factor: 3, brackets: 2}
"""
STOPPING = ("asha", "hyperband", "median")


def space(scheduler: str) -> SearchSpace:
    return parse_space(SPACE.replace("SCHEDULER", scheduler), file="study.yaml")


@dataclass(frozen=True, eq=False)
class Entered:
    """What schedulers see of a trial."""

    trial_id: str
    config: dict[str, Any]


class Drive:
    """A scheduler, and trials that report to it as Tune's would."""

    def __init__(self, scheduler: TrialScheduler):
        self._scheduler, self._trials = scheduler, 0

    def add(self, number: int, *, spared: bool = False) -> Trial:
        self._trials += 1
        config = {"number": number, "spared": spared}
        trial = cast(Trial, Entered(trial_id=f"{self._trials:08x}", config=config))
        self._scheduler.on_trial_add(cast(Any, self), trial)
        return trial

    def report(self, trial: Trial, epoch: int, value: float) -> str:
        return self._scheduler.on_trial_result(cast(Any, self), trial, {"epoch": float(epoch), METRIC: value})

    def complete(self, trial: Trial, epoch: int, value: float) -> None:
        self._scheduler.on_trial_complete(cast(Any, self), trial, {"epoch": float(epoch), METRIC: value})

    def get_live_trials(self) -> list[Trial]:
        """One that waits: a scheduler that makes way for others has somebody to do it for."""
        return [cast(Trial, SimpleNamespace(status=Trial.PENDING))]


def with_good_ones(drive: Drive, *, epochs: int = 3, number: int = 8) -> None:
    """Trials that others are compared with: they ran for some epochs, and were good."""
    for good in range(100, 100 + number):
        trial = drive.add(good)
        for epoch in range(1, epochs + 1):
            drive.report(trial, epoch, 0.9)


def test_without_a_scheduler_nobody_is_stopped() -> None:
    assert type(make_scheduler(space("none"))) is FIFOScheduler


@pytest.mark.parametrize("name", STOPPING)
def test_the_hopeless_are_stopped_and_the_best_goes_on(name: str) -> None:
    drive = Drive(make_scheduler(space(name)))
    with_good_ones(drive, number=40)
    hopeless = [drive.add(number) for number in range(20)]
    # Hyperband gives some trials a later first rung.
    decisions = {drive.report(trial, 3, 0.5) for trial in hopeless}
    assert TrialScheduler.STOP in decisions
    assert drive.report(drive.add(50), 3, 0.99) == TrialScheduler.CONTINUE


@pytest.mark.parametrize("name", STOPPING)
def test_nobody_is_stopped_before_the_first_rung(name: str) -> None:
    late = parse_space(
        SPACE.replace("SCHEDULER", name).replace("grace_epochs: 1", "grace_epochs: 3"), file="study.yaml"
    )
    drive = Drive(make_scheduler(late))
    with_good_ones(drive, number=40)
    hopeless = [drive.add(number) for number in range(20)]
    assert {drive.report(trial, 2, 0.1) for trial in hopeless} == {TrialScheduler.CONTINUE}
    assert TrialScheduler.STOP in {drive.report(trial, 3, 0.1) for trial in hopeless}


@pytest.mark.parametrize("name", STOPPING)
def test_a_trial_that_is_about_to_complete_is_not_stopped_for_being_there(name: str) -> None:
    drive = Drive(make_scheduler(space(name)))
    trial = drive.add(0)
    assert [drive.report(trial, epoch, 0.5) for epoch in range(1, 10)] == [TrialScheduler.CONTINUE] * 9
    drive.complete(trial, 9, 0.5)


@pytest.mark.parametrize("name", STOPPING)
def test_a_trial_of_a_further_seed_is_never_stopped_and_never_compared_with(name: str) -> None:
    drive = Drive(make_scheduler(space(name)))
    for number in range(20):
        spared = drive.add(number, spared=True)
        for epoch in range(1, 10):
            assert drive.report(spared, epoch, 0.9) == TrialScheduler.CONTINUE
        drive.complete(spared, 9, 0.9)
    trial = drive.add(50)
    assert [drive.report(trial, epoch, 0.1) for epoch in range(1, 10)] == [TrialScheduler.CONTINUE] * 9
    with_good_ones(drive, number=40)
    assert drive.report(drive.add(51, spared=True), 3, 0.1) == TrialScheduler.CONTINUE


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_further_attempt_goes_on_under_the_name_of_the_first(name: str) -> None:
    """Trials that were lost after a rung are not judged at that rung again, by a later epoch's value."""
    lost, never_lost = (Drive(make_scheduler(space(name))) for _ in range(2))
    decisions = []
    for drive in (lost, never_lost):
        with_good_ones(drive, number=4)
        trials = [drive.add(number) for number in range(3)]
        for trial in trials:
            drive.report(trial, 1, 0.95)
        if drive is lost:
            trials = [drive.add(number) for number in range(3)]
        decisions.append([drive.report(trial, epoch, 0.92) for epoch in (2, 3, 4) for trial in trials])
        decisions[-1].append(drive.report(drive.add(60), 1, 0.1))
        drive.complete(trials[0], 9, 0.92)
    assert decisions[0] == decisions[1]
    assert TrialScheduler.STOP in decisions[0]


def test_a_further_attempt_keeps_its_bracket_of_hyperband() -> None:
    drive = Drive(make_scheduler(space("hyperband")))
    for number in range(20):
        first, second = drive.add(number), drive.add(number)
        drive.report(first, 3, 0.9)
        assert drive.report(second, 4, 0.1) == TrialScheduler.CONTINUE  # it passed that rung
        drive.complete(second, 9, 0.9)


def test_the_median_rule_waits_for_enough_others_and_never_pauses() -> None:
    drive = Drive(make_scheduler(space("median")))
    with_good_ones(drive, number=MEDIAN_OF - 1)
    assert drive.report(drive.add(0), 2, 0.1) == TrialScheduler.CONTINUE
    with_good_ones(drive, number=MEDIAN_OF)
    assert drive.report(drive.add(1), 2, 0.1) == TrialScheduler.STOP


@pytest.mark.parametrize(
    ("parameter", "start"),
    [
        (FloatParameter(low=1e-4, high=1e-2, log=True), 1e-3),
        (FloatParameter(low=0.0, high=0.9, step=0.1), 0.0),
        (FloatParameter(low=-1.0, high=1.0), 0.5),
        (IntParameter(low=1, high=9), 2),
        (IntParameter(low=1, high=16, log=True), 8),
        (IntParameter(low=8, high=32, step=8), 16),
        (CategoricalParameter(choices=(0.1, 1.0, 10.0)), 1.0),
    ],
)
def test_what_changes_stays_in_its_range_and_comes_everywhere(parameter: Any, start: float) -> None:
    rng, value, met = random.Random(0), start, set()
    for _ in range(3000):
        value = changed(parameter, value, rng)
        assert parameter.claim_against(value) is None
        met.add(value)
    grid = parameter.grid()
    if grid is not None:
        assert met == set(grid)
    else:
        low, high = parameter.ends()
        assert min(met) < low + 0.1 * (high - low)
        assert max(met) > high - 0.1 * (high - low)


def test_a_number_mostly_moves_by_a_fifth() -> None:
    rng = random.Random(0)
    moved = [changed(FloatParameter(low=0.0, high=100.0), 10.0, rng) for _ in range(1000)]
    near = [value for value in moved if value in (8.0, 12.0)]
    assert 0.7 < len(near) / len(moved) < 0.8


def test_a_task_is_explored_in_its_point_and_the_config_that_follows_from_it() -> None:
    here = space("pbt")
    point = {"optimizer.lr": 1e-3, "optimizer.momentum": 0.5}
    task = cast(
        TrialTask,
        {"number": 3, "point": point, "config": here.config(point).model_dump(mode="json"), "spared": False},
    )
    new = explored(task, space=here, rng=random.Random(1))
    assert new["point"].keys() == point.keys()
    assert new["point"] != point
    assert new["config"]["optimizer"]["lr"] == new["point"]["optimizer.lr"]
    assert new["config"]["optimizer"]["momentum"] == new["point"]["optimizer.momentum"]
    assert {**new, "point": 0, "config": 0} == {**task, "point": 0, "config": 0}
    assert task["point"] == {"optimizer.lr": 1e-3, "optimizer.momentum": 0.5}


def test_a_lineage_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    assert read_lineage(tmp_path) == []
    exploits = [
        Exploit(trial=1, donor=donor, epoch=2, donor_epoch=2, before={"optimizer.lr": 0.1}, after={"a": "b"})
        for donor in (0, 3)
    ]
    for exploit in exploits:
        record(exploit, tmp_path)
    assert read_lineage(tmp_path) == exploits
