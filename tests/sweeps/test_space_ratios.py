"""A setting may be a ratio of another: the ratio is drawn, the trial gets the product."""

from typing import Any

import optuna
import pytest

from sweeps.space import SearchSpace, SpaceError, parse_space

SPACE = """\
name: study
objectives: [{metric: validation/eer, direction: minimize}]
base:
  student: {name: searchable, width1: 20}
  method: {name: synthdistill}
  training: {epochs: 4, faces_per_epoch: 1024, batch_size: 64}
parameters:
  student.width2: {type: float, ratio_of: student.width1, low: 1.5, high: 2.5}
  student.width3: {type: int, ratio_of: student.width2, low: 1, high: 3}
  student.width4: {type: float, ratio_of: student.width3, low: 1.25, high: 1.25}
  losses.cosine.weight: {type: float, low: 1.0, high: 10.0, log: true}
  losses.raw_mse.weight: {type: float, ratio_of: losses.cosine.weight, low: 0.1, high: 0.5, step: 0.1}
search: {sampler: tpe, num_trials: 4}
"""


def space(text: str = SPACE, **overrides: str) -> SearchSpace:
    return parse_space(
        text, file="study.yaml", overrides={name.replace("__", "."): v for name, v in overrides.items()}
    )


DRAWN = {
    "student.width2": 1.63,
    "student.width3": 3,
    "losses.cosine.weight": 4.0,
    "losses.raw_mse.weight": 0.5,
}


def test_the_trial_gets_products_of_what_was_drawn() -> None:
    settings = space().settings_of(DRAWN)
    assert settings == {
        "student.width2": 33,  # 1.63 x 20 = 32.6
        "student.width3": 99,  # 3 x 33, not 3 x 32.6
        "student.width4": 124,  # 1.25 x 99 = 123.75
        "losses.cosine.weight": 4.0,
        "losses.raw_mse.weight": 2.0,
    }
    assert list(settings) == list(space().parameters)
    assert [type(settings[f"student.width{n}"]) for n in (2, 3, 4)] == [int, int, int]
    config = space().config(DRAWN)
    student: Any = config.student
    assert (student.width1, student.width2, student.width3, student.width4) == (20, 33, 99, 124)
    assert config.losses.raw_mse is not None
    assert config.losses.raw_mse.weight == 2.0


def test_what_a_point_lacks_is_left_out() -> None:
    assert space().settings_of({"student.width3": 2}) == {}
    assert space().settings_of({"seed": 7}) == {"seed": 7}


GRID = """\
name: grid
objectives: [{metric: validation/eer, direction: minimize}]
base:
  student: {name: searchable}
  training: {epochs: 4, faces_per_epoch: 1024, batch_size: 64}
parameters:
  optimizer.lr: {type: categorical, choices: [0.001, 0.01]}
  student.width1: {type: categorical, choices: [16, 24]}
  student.width2: {type: float, ratio_of: student.width1, low: 1.0, high: 2.0, step: 0.5}
  student.width3: {type: float, ratio_of: student.width1, low: 2.0, high: 2.0}
search: {sampler: grid, num_trials: 12}
"""


def test_optuna_holds_the_ratio_and_is_not_asked_where_there_is_one_only() -> None:
    searched = space(GRID)
    study = optuna.create_study(sampler=searched.sampler())
    for _ in range(12):
        searched.sample(study.ask())
    assert {tuple(trial.params) for trial in study.trials} == {
        ("optimizer.lr", "student.width1", "student.width2")
    }
    assert {trial.params["student.width2"] for trial in study.trials} == {1.0, 1.5, 2.0}
    widths = {
        (student.width1, student.width2, student.width3)
        for student in (searched.config(trial.params).student for trial in study.trials)
        if student.name == "searchable"
    }
    assert widths == {(16, w, 32) for w in (16, 24, 32)} | {(24, w, 48) for w in (24, 36, 48)}


def test_a_ratio_goes_on_when_the_other_is_fixed_on_the_command_line() -> None:
    settings = space(student__width1="30").settings_of(DRAWN)
    assert settings["student.width2"] == 49


def test_a_ratio_that_is_fixed_on_the_command_line_is_a_number_of_its_own() -> None:
    changed = space(student__width2="50")
    assert changed.fixed("student.width2") == 50
    assert changed.settings_of({"student.width3": 2})["student.width3"] == 100


def test_a_tie_exists_where_its_conditions_hold() -> None:
    text = GRID.replace("base:\n  student: {name: searchable}", "base:").replace(
        "parameters:\n",
        "parameters:\n  student.name: {type: categorical, choices: [searchable, bridge_tiny]}\n",
    )
    for width in (1, 2, 3):
        head, _, tail = text.partition(f"student.width{width}: {{")
        text = f"{head}student.width{width}: {{when: {{student.name: searchable}}, {tail}"
    searched = space(text)
    grid = searched.grid() or []
    assert len(grid) == 2 + 12
    for point in grid:
        assert ("student.width3" in searched.settings_of(point)) == (point["student.name"] == "searchable")
        assert searched.config(point)


def test_a_written_space_keeps_its_ratios() -> None:
    assert space(space().to_yaml()) == space()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "ratio_of: student.width1, low: 1.5",
            "ratio_of: student.with1, low: 1.5",
            "8: parameters.student.width2.ratio_of must be a parameter or fixed in base, got "
            "'student.with1'; did you mean student.width1?",
        ),
        (
            "ratio_of: student.width1, low: 1.5",
            "ratio_of: student.name, low: 1.5",
            "8: parameters.student.width2.ratio_of must name a number, got 'student.name', which is "
            "'searchable' in base",
        ),
        (
            "ratio_of: student.width1, low: 1.5",
            "ratio_of: student.width3, low: 1.5",
            "8: parameters.student.width2.ratio_of must be declared before student.width2, "
            "got 'student.width3'",
        ),
        (
            "ratio_of: student.width1, low: 1.5",
            "ratio_of: student.width2, low: 1.5",
            "8: parameters.student.width2.ratio_of must be declared before student.width2, "
            "got 'student.width2'",
        ),
        (
            "ratio_of: student.width1, low: 1.5",
            "ratio_of: 3, low: 1.5",
            "8: parameters.student.width2.ratio_of must be text, got 3",
        ),
        (
            "low: 1.5, high: 2.5",
            "low: 1.5, high: 1.0",
            "8: parameters.student.width2.high must be at least low (1.5), got 1.0",
        ),
        (
            "ratio_of: student.width1, low: 1.5",
            "low: 2.5",
            "8: parameters.student.width2.high must be above low (2.5), got 2.5",
        ),
        (
            "low: 1.25, high: 1.25",
            "low: 0.001, high: 0.001",
            "10: parameters.student.width4 must be greater than or equal to 8, got 0, "
            "0.001 times student.width3",
        ),
        (
            "type: int, ratio_of: student.width2, low: 1, high: 3",
            "type: int, ratio_of: student.width2, low: 1, high: -3",
            "9: parameters.student.width3.high must be at least low (1), got -3",
        ),
        (
            "ratio_of: losses.cosine.weight, low: 0.1, high: 0.5",
            "ratio_of: losses.cosine.weight, low: -0.1, high: 0.5",
            "12: parameters.losses.raw_mse.weight must be greater than or equal to 0, got -0.1, -0.1 times "
            "losses.cosine.weight",
        ),
    ],
)
def test_a_wrong_ratio_is_told_in_a_sentence(old: str, new: str, sentence: str) -> None:
    assert old in SPACE
    with pytest.raises(SpaceError) as caught:
        space(SPACE.replace(old, new))
    assert caught.value.problems[0].startswith(f"study.yaml:{sentence}"), caught.value.problems


def test_what_a_ratio_refers_to_must_exist_wherever_it_does() -> None:
    text = SPACE.replace(
        "  losses.cosine.weight: {",
        "  method.resampling: {type: categorical, choices: [adaptive_w, off]}\n"
        "  losses.cosine.weight: {when: {method.resampling: off}, ",
    )
    sentence = (
        "study.yaml:13: parameters.losses.raw_mse.weight.ratio_of must exist wherever losses.raw_mse.weight "
        "does, got 'losses.cosine.weight': add when: {method.resampling: [off]}"
    )
    with pytest.raises(SpaceError) as caught:
        space(text)
    assert caught.value.problems == [sentence]
    head, _, tail = text.rpartition("{type: float, ratio_of")
    assert space(f"{head}{{when: {{method.resampling: off}}, type: float, ratio_of{tail}")


def test_a_condition_that_always_holds_is_none() -> None:
    text = SPACE.replace(
        "  losses.cosine.weight: {",
        "  method.resampling: {type: categorical, choices: [adaptive_w, off]}\n"
        "  losses.cosine.weight: {when: {method.resampling: [off, adaptive_w]}, ",
    )
    assert space(text)


def test_a_ratio_of_a_parameter_that_could_not_be_read_is_no_mistake_of_its_own() -> None:
    with pytest.raises(SpaceError) as caught:
        space(SPACE.replace("ratio_of: student.width1, low: 1.5", "ratio_of: student.width1, lou: 1.5"))
    assert [problem.split(" ")[1] for problem in caught.value.problems] == [
        "parameters.student.width2.low",
        "parameters.student.width2.lou",
    ]


def test_both_ends_of_a_product_are_checked() -> None:
    with pytest.raises(SpaceError) as caught:
        space(
            SPACE.replace("high: 10.0, log: true", "high: 10.0").replace(
                "low: 1.5, high: 2.5", "low: 0.01, high: 2.5"
            )
        )
    assert caught.value.problems == [
        f"study.yaml:{line}: parameters.student.width{n} must be greater than or equal to 8, got 0, "
        f"{ratio} times student.width{n - 1}"
        for line, n, ratio in ((8, 2, 0.01), (9, 3, 1), (10, 4, 1.25))
    ]
