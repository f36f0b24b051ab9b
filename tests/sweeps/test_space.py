"""A search space is sampled as its file says, reproducibly, and every point is a trial."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest

from distill.errors import InputError
from distill.students import MobileFaceNetSettings
from distill.teachers.embedded import SHIPPED_WEIGHTS
from sweeps.space import Bound, SearchSpace, SpaceError, load_space, parse_space
from sweeps.space.document import dump, parse
from sweeps.space.settings import SamplerName

SPACE = """\
name: study
objectives:
  - {metric: validation/eer, direction: minimize}
base:
  student: {name: mobilefacenet}
  training: {epochs: 4, faces_per_epoch: 1024, batch_size: 64}
parameters:
  optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
  student.width: {type: float, low: 0.25, high: 1.0, step: 0.25}
  schedule.name: {type: categorical, choices: [cosine, step, constant]}
  schedule.step_epochs: {type: int, low: 1, high: 3, when: {schedule.name: step}}
  schedule.final_share: {type: float, low: 0.0, high: 0.5, step: 0.5, when: {schedule.name: cosine}}
search: {sampler: tpe, num_trials: 4, seed: 3, startup_trials: 4}
scheduler: {grace_epochs: 1}
"""
UNCONDITIONAL = SPACE.replace("when: {schedule.name: step}", "").replace("when: {schedule.name: cosine}", "")
NUMBERS = UNCONDITIONAL.replace(
    "  schedule.name: {type: categorical, choices: [cosine, step, constant]}\n", ""
)
GRID = SPACE.replace("sampler: tpe", "sampler: grid").replace("log: true", "step: 9.9e-3")


def space(text: str = SPACE, **overrides: str) -> SearchSpace:
    return parse_space(
        text, file="study.yaml", overrides={name.replace("__", "."): v for name, v in overrides.items()}
    )


def points(space: SearchSpace, num_points: int, **sampler: Any) -> list[dict[str, Any]]:
    """Points that a study asks for, each told a value that depends on it alone."""
    study = optuna.create_study(directions=space.directions, sampler=space.sampler(**sampler))
    sampled = []
    for _ in range(num_points):
        trial = study.ask()
        sampled.append(space.sample(trial))
        study.tell(trial, [sampled[-1]["optimizer.lr"]] * len(space.objectives))
    return sampled


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_every_sampler_gives_valid_trials_and_the_same_ones_again(sampler: str) -> None:
    text = {"gp": UNCONDITIONAL, "qmc": UNCONDITIONAL, "cmaes": NUMBERS, "grid": GRID}.get(sampler, SPACE)
    searched = space(text, search__sampler=sampler)
    first = points(searched, 8)
    assert [searched.config(point) for point in first]
    assert points(searched, 8) == first
    assert points(space(text, search__sampler=sampler, search__seed="4"), 8) != first


def test_several_objectives_can_be_searched() -> None:
    objectives = (
        "[{metric: validation/eer, direction: minimize}, {metric: efficiency/macs, direction: minimize}]"
    )
    assert len(points(space(objectives=objectives), 6)) == 6


def test_a_resumed_study_does_not_draw_its_first_points_again() -> None:
    assert points(space(), 2, num_existing=2) != points(space(), 2)


def test_parameters_exist_only_where_their_conditions_hold() -> None:
    for point in points(space(), 20):
        assert ("schedule.step_epochs" in point) == (point["schedule.name"] == "step")
        assert ("schedule.final_share" in point) == (point["schedule.name"] == "cosine")


def test_a_condition_on_a_setting_that_base_fixes_is_decided_by_base() -> None:
    searched = "schedule.name: {type: categorical, choices: [cosine, step, constant]}"
    cosine_only = (
        "schedule.final_share: {type: float, low: 0.0, high: 0.5, step: 0.5, when: {schedule.name: cosine}}"
    )
    text = SPACE.replace(searched, "").replace(cosine_only, "")
    text = text.replace("base:\n", "base:\n  schedule: {name: step}\n")
    assert set(points(space(text), 1)[0]) == {"optimizer.lr", "student.width", "schedule.step_epochs"}


def test_a_condition_may_name_several_values() -> None:
    text = SPACE.replace("when: {schedule.name: step}", "when: {schedule.name: [step, cosine]}")
    for point in points(space(text), 12):
        assert ("schedule.step_epochs" in point) == (point["schedule.name"] != "constant")


def test_the_grid_holds_every_trial_once_and_no_other() -> None:
    searched = space(GRID)
    grid = searched.grid()
    assert grid is not None
    assert len(grid) == 2 * 4 * (1 + 3 + 2)  # rates, widths, and schedules: constant, step, cosine
    counted = Counter(tuple(sorted(point.items())) for point in points(searched, len(grid)))
    assert counted == Counter(tuple(sorted(point.items())) for point in grid)


def test_a_resumed_grid_goes_on_where_it_was() -> None:
    searched, study = space(GRID), optuna.create_study()
    for _ in range(4):
        study.sampler = searched.sampler(num_existing=len(study.trials))
        searched.sample(study.ask())
    assert [trial.params for trial in study.trials] == points(searched, 4)


def test_repeating_an_interrupted_trial_takes_no_point_off_the_grid() -> None:
    searched = space(GRID)
    study = optuna.create_study(sampler=searched.sampler())
    study.enqueue_trial(searched.sample(study.ask()))
    sampled = [searched.sample(study.ask()) for _ in range(4)]
    assert sampled == [points(searched, 1)[0], *points(searched, 4)[1:]]


def test_a_trial_is_base_with_the_point_and_is_judged_by_the_first_objective() -> None:
    config = space().config({"optimizer.lr": 0.002, "student.width": 0.5})
    assert config.optimizer.lr == 0.002
    assert config.student == MobileFaceNetSettings(width=0.5)
    assert config.training.epochs == 4
    assert (config.selection.metric, config.selection.direction) == ("validation/eer", "minimize")


def test_a_point_is_trained_again_with_a_seed_further_on() -> None:
    point = space().first_point()
    assert [space().config(point, seed_offset=n).seed for n in (0, 1, 5)] == [0, 1, 5]
    assert [space(seed="40").config(point, seed_offset=n).seed for n in (0, 2)] == [40, 42]
    assert space(seed="40").config(point, seed_offset=2) == space(seed="42").config(point)


def test_every_training_is_counted() -> None:
    assert space().trainings == 4
    assert space(search__repeats="3", confirm="{top: 2, seeds: 5}").trainings == 4 * 3 + 2 * 5


def test_latency_is_needed_where_an_objective_or_a_constraint_asks_for_it() -> None:
    latency = "efficiency/latency_ms"
    assert not space(constraints="[{metric: efficiency/macs, at_most: 1}]").needs_latency
    assert space(constraints=f"[{{metric: {latency}, at_most: 1}}]").needs_latency
    eer = "{metric: validation/eer, direction: minimize}"
    assert space(objectives=f"[{eer}, {{metric: {latency}, direction: minimize}}]").needs_latency


def test_a_point_that_is_no_trial_is_refused_with_every_reason() -> None:
    with pytest.raises(
        InputError, match=r"student\.widht is not a known .*; optimizer\.lr must be greater than 0"
    ):
        space().config({"optimizer.lr": -1, "student.widht": 0.5})


@pytest.mark.parametrize("text", [SPACE, GRID])
def test_a_space_is_the_same_after_it_was_written_and_read(text: str) -> None:
    assert space(space(text).to_yaml()) == space(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("off", "off"),
        ("no", "no"),
        ("2026-01-01", "2026-01-01"),
        ("1:30", "1:30"),
        ("'1e-3'", "1e-3"),
        ("true", True),
    ],
)
def test_scalars_are_read_as_they_look_and_written_to_be_read_so(text: str, value: Any) -> None:
    read = parse(f"value: {text}", file="").data
    assert read == {"value": value}
    assert type(read["value"]) is type(value)
    assert parse(dump(read), file="").data == read


def test_a_value_of_the_file_can_be_replaced() -> None:
    changed = space(search__num_trials="9", scheduler__name="none", resources__max_concurrent="1")
    assert (changed.search.num_trials, changed.search.seed) == (9, 3)
    assert (changed.scheduler.name, changed.resources.max_concurrent) == ("none", 1)


def test_an_end_of_a_range_can_be_replaced() -> None:
    changed = space(parameters__optimizer__lr__high="0.5")
    assert changed.parameters["optimizer.lr"].ends() == (1e-4, 0.5)


@pytest.mark.parametrize("name", ["optimizer.lr", "base.optimizer.lr"])
def test_a_setting_that_is_given_is_no_longer_searched(name: str) -> None:
    changed = parse_space(SPACE, file="study.yaml", overrides={name: "1e-3"})
    assert "optimizer.lr" not in changed.parameters
    assert changed.config({}).optimizer.lr == 0.001


def test_parameters_that_a_given_setting_rules_out_are_no_longer_searched() -> None:
    assert list(space(schedule__name="step").parameters) == [
        "optimizer.lr",
        "student.width",
        "schedule.step_epochs",
    ]


def test_what_is_given_is_left_out_of_the_points_that_are_tried_first() -> None:
    point = "{schedule.name: step, schedule.step_epochs: 2, student.width: 0.5}"
    text = SPACE.replace("num_trials: 4", f"num_trials: 4, enqueue: [{point}, {{student.width: 1.0}}]")
    assert space(text, schedule__name="cosine").search.enqueue == (
        {"student.width": 0.5},
        {"student.width": 1.0},
    )


def test_a_group_of_settings_can_be_given_whole() -> None:
    changed = space(schedule="{name: step, gamma: 0.1}")
    assert list(changed.parameters) == ["optimizer.lr", "student.width"]
    assert changed.config({}).schedule.gamma == 0.1


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "optimiser.lr",
            "1",
            "--set optimiser.lr=1: optimiser.lr is not a known key; did you mean optimizer?",
        ),
        ("optimizer.lr", "fast", "--set optimizer.lr=fast: base.optimizer.lr must be a number, got 'fast'"),
        (
            "search.num_trials",
            "0",
            "--set search.num_trials=0: search.num_trials must be greater than 0, got 0",
        ),
        ("search.seed", "[1", "--set search.seed=[1: search.seed is not valid YAML"),
    ],
)
def test_what_is_wrong_with_an_override_names_the_override(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_space(SPACE, file="study.yaml", overrides={name: value})
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(sentence)


def test_a_file_is_read_from_its_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SPACE)
    assert load_space(str(tmp_path / "mine.yaml")) == space()


def test_a_space_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        space().name = "other"


def test_constraints_on_known_metrics_say_how_they_are_broken() -> None:
    limited = space(
        constraints="[{metric: efficiency/parameters, at_most: 250000}, {metric: train/loss, at_most: 1}]"
    )
    assert limited.broken_constraints({"efficiency/parameters": 250000}) == []
    assert limited.broken_constraints({"efficiency/parameters": 300000}) == [
        "efficiency/parameters at most 250,000, got 300,000"
    ]


def test_the_first_point_has_only_what_exists_there() -> None:
    assert space().first_point() == {
        "optimizer.lr": 1e-4,
        "student.width": 0.25,
        "schedule.name": "cosine",
        "schedule.final_share": 0.0,
    }


def test_a_bound_is_violated_by_what_lies_beyond_it() -> None:
    assert Bound(metric="m", at_most=3.0).violation(5.0) == 2.0
    assert Bound(metric="m", at_least=3.0).violation(5.0) == -2.0


def test_files_are_named_from_where_the_sweep_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(SHIPPED_WEIGHTS, tmp_path / "teacher.safetensors")
    shutil.copy(SHIPPED_WEIGHTS.with_suffix(".json"), tmp_path / "teacher.json")
    monkeypatch.chdir(tmp_path)
    begun = space(
        SPACE.replace("base:\n", "base:\n  teacher: {name: embedded, weights: teacher.safetensors}\n")
    )
    monkeypatch.chdir("/")
    resumed = parse_space(begun.to_yaml(), file="space.yaml")
    assert resumed.fixed("teacher.weights") == str(tmp_path / "teacher.safetensors")
    assert resumed.config(resumed.first_point()).teacher.load().embedding_dim == 128
