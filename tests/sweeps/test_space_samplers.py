"""Samplers serve a space, go on where a study stopped, and refuse what they cannot do."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from sweeps.space import SearchSpace, parse_space

NUMBERS = """\
name: study
objectives: [{metric: validation/eer, direction: minimize}]
base: {student: {name: mobilefacenet}, training: {epochs: 4, faces_per_epoch: 1024, batch_size: 64}}
parameters:
  optimizer.lr: {type: float, low: 1e-3, high: 1e-2}
  student.width: {type: float, low: 0.25, high: 1.0}
search: {sampler: SAMPLER, num_trials: 40, seed: 3, startup_trials: 6}
"""
DEEP = """\
name: deep
objectives: [{metric: validation/eer, direction: minimize}]
base:
  method: {name: bridge, num_classes: 64, images_per_class: 8}
  training: {epochs: 4, faces_per_epoch: 1024, batch_size: 64}
parameters:
  method.strategy: {type: categorical, choices: [classification, transfer]}
  method.adapter.name: {type: categorical, choices: [none, linear], when: {method.strategy: transfer}}
  method.adapter.compactness:
    {type: categorical, choices: [none, l1, centre], when: {method.adapter.name: linear}}
  method.adapter.compactness_weight:
    {type: float, low: 0.25, high: 0.75, step: 0.25, when: {method.adapter.compactness: [l1, centre]}}
search: {sampler: SAMPLER, num_trials: 9, seed: 3, startup_trials: 4}
"""
TWO = "[{metric: validation/eer, direction: minimize}, {metric: efficiency/macs, direction: minimize}]"


def space(text: str, sampler: str, **overrides: str) -> SearchSpace:
    return parse_space(text.replace("SAMPLER", sampler), file="study.yaml", overrides=overrides)


def distance(point: dict[str, Any]) -> float:
    """How far a point is from the best one, each number in units of its range."""
    return ((point["optimizer.lr"] - 0.007) / 0.009) ** 2 + ((point["student.width"] - 0.4) / 0.75) ** 2


def go_on(study: optuna.Study, searched: SearchSpace, num_trials: int) -> list[dict[str, Any]]:
    """Points that a driver of the study draws and tells, with a sampler of its own."""
    study.sampler = searched.sampler(num_existing=len(study.trials))
    drawn = []
    for _ in range(num_trials):
        trial = study.ask()
        drawn.append(searched.sample(trial))
        study.tell(trial, [distance(drawn[-1])] * len(searched.objectives))
    return drawn


@pytest.mark.parametrize("sampler", ["grid", "tpe", "random"])
def test_conditions_hold_at_a_depth_of_three(sampler: str) -> None:
    searched = space(DEEP, sampler)
    study = optuna.create_study(direction="minimize", sampler=searched.sampler())
    seen = set()
    for _ in range(9 if sampler == "grid" else 40):
        trial = study.ask()
        point = searched.sample(trial)
        assert searched.config(point)
        seen.add(tuple(point.items()))
        transfers = point["method.strategy"] == "transfer"
        adapts = point.get("method.adapter.name") == "linear"
        weighs = point.get("method.adapter.compactness") in ("l1", "centre")
        assert ("method.adapter.name" in point) == transfers
        assert ("method.adapter.compactness" in point) == (transfers and adapts)
        assert ("method.adapter.compactness_weight" in point) == weighs
        study.tell(trial, 1.0 - 0.1 * len(point))
    assert {len(point) for point in seen} == {1, 2, 3, 4}
    assert len(seen) <= 1 + 1 + 1 + 2 * 3
    if sampler == "grid":
        assert len(seen) == len(searched.grid() or ()) == 1 + 1 + 1 + 2 * 3


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "nsgaii", "nsgaiii", "cmaes"])
def test_a_resumed_study_does_not_begin_again(sampler: str) -> None:
    searched = space(NUMBERS, sampler)
    study = optuna.create_study(direction="minimize")
    drawn = go_on(study, searched, 7) + go_on(study, searched, 7)
    # Those that breed may clone a parent now and then. One that began again would draw 7 points twice.
    assert len({tuple(point.items()) for point in drawn}) > 11


def test_cmaes_takes_its_state_from_the_storage(tmp_path: Path) -> None:
    searched = space(NUMBERS, "cmaes", **{"search.startup_trials": "2"})
    storage = f"sqlite:///{tmp_path}/optuna.db"
    go_on(optuna.create_study(storage=storage, study_name="s"), searched, 10)
    resumed = optuna.load_study(storage=storage, study_name="s")
    go_on(resumed, searched, 6)
    # Generations of 6, for 2 dimensions. A sampler without its state would begin with generation 0 again.
    generations = [trial.system_attrs.get("cma:generation") for trial in resumed.trials]
    assert generations == [None] * 2 + [0] * 6 + [1] * 6 + [2] * 2


def test_qmc_goes_on_in_its_sequence() -> None:
    searched = space(NUMBERS, "qmc")
    resumed, through = (optuna.create_study(direction="minimize") for _ in range(2))
    assert go_on(resumed, searched, 3) + go_on(resumed, searched, 5) == go_on(through, searched, 8)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "nsgaii", "nsgaiii"])
def test_several_objectives_are_served(sampler: str) -> None:
    searched = space(NUMBERS, sampler, objectives=TWO)
    assert len(go_on(optuna.create_study(directions=searched.directions), searched, 7)) == 7


def test_a_grid_serves_several_objectives() -> None:
    searched = space(DEEP, "grid", objectives=TWO)
    study = optuna.create_study(directions=searched.directions, sampler=searched.sampler())
    drawn = [searched.sample(study.ask()) for _ in range(9)]
    assert sorted(map(str, drawn)) == sorted(map(str, searched.grid() or ()))


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "nsgaii", "nsgaiii", "cmaes"])
def test_what_a_first_point_leaves_out_is_drawn(sampler: str) -> None:
    text = NUMBERS.replace("startup_trials: 6", "startup_trials: 6, enqueue: [{optimizer.lr: 0.002}]")
    searched = space(text, sampler)
    study = optuna.create_study(direction="minimize")
    for point in searched.search.enqueue:
        study.enqueue_trial(point)
    first, *others = go_on(study, searched, 4)
    assert first["optimizer.lr"] == 0.002
    assert 0.25 <= first["student.width"] <= 1.0
    assert all(point["optimizer.lr"] != 0.002 for point in others)
