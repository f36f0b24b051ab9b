"""No trial is stopped before its learning rate dropped for the first time, unless the space says so."""

import pytest

from sweeps.space import SearchSpace, SpaceError, parse_space

SPACE = """\
name: study
objectives: [{metric: validation/eer, direction: minimize}]
base:
  method: {name: synthdistill}
  training: {epochs: 20, faces_per_epoch: 1024, batch_size: 64}
search: {num_trials: 4}
"""
NAMES = "{type: categorical, choices: [cosine, step]}"


def space(**overrides: str) -> SearchSpace:
    values = {name.replace("__", "."): value for name, value in overrides.items()}
    return parse_space(SPACE, file="study.yaml", overrides=values)


def parameters(**named: str) -> str:
    return "{" + ", ".join(f"{name.replace('__', '.')}: {value}" for name, value in named.items()) + "}"


@pytest.mark.parametrize(
    ("schedule", "first_rung"),
    [
        ("{}", 1),
        ("{name: constant}", 1),
        ("{name: cosine, step_epochs: 3}", 1),
        ("{name: step}", 11),
        ("{name: step, step_epochs: 3}", 4),
        ("{name: step, step_epochs: 20}", 1),
        ("{name: milestones}", 1),
        ("{name: milestones, milestones: [14, 8, 20]}", 9),
        ("{name: milestones, milestones: [25]}", 1),
    ],
)
def test_the_first_rung_follows_the_first_drop(schedule: str, first_rung: int) -> None:
    assert space(schedule=schedule).first_rung == first_rung


def test_a_told_rung_is_taken() -> None:
    assert space(schedule="{name: step}", scheduler__grace_epochs="2").first_rung == 2


@pytest.mark.parametrize(
    ("named", "first_rung"),
    [
        ({"schedule__name": NAMES}, 11),
        ({"schedule__name": "{type: categorical, choices: [cosine, constant]}"}, 1),
        ({"schedule__name": NAMES, "schedule__step_epochs": "{type: int, low: 2, high: 6}"}, 7),
        (
            {
                "schedule__name": NAMES,
                "schedule__step_epochs": "{type: int, low: 2, high: 6, when: {schedule.name: step}}",
            },
            7,
        ),
        (
            {
                "schedule__name": NAMES,
                "seed": "{type: categorical, choices: [1, 2]}",
                "schedule__step_epochs": "{type: int, low: 2, high: 6, when: {seed: 1}}",
            },
            11,
        ),
        ({"schedule__name": NAMES, "schedule__step_epochs": "{type: categorical, choices: [3, 12, 30]}"}, 13),
        ({"schedule__name": NAMES, "schedule__step_epochs": "{type: int, low: 6, high: 30, step: 6}"}, 19),
        (
            {
                "schedule__name": NAMES,
                "schedule__step_epochs": "{type: float, ratio_of: training.epochs, low: 0.1, high: 0.4}",
            },
            9,
        ),
    ],
)
def test_a_searched_schedule_counts_with_the_latest_of_its_first_drops(
    named: dict[str, str], first_rung: int
) -> None:
    assert space(parameters=parameters(**named)).first_rung == first_rung


def test_the_longest_trial_decides_whether_a_rate_drops_at_all() -> None:
    text = SPACE.replace("epochs: 20, ", "")

    def searched(epochs: str) -> SearchSpace:
        overrides = {"schedule": "{name: step, step_epochs: 6}", "scheduler.name": "none"}
        return parse_space(
            text, file="s.yaml", overrides=overrides | {"parameters": f"{{training.epochs: {epochs}}}"}
        )

    assert searched("{type: int, low: 2, high: 6}").first_rung == 1
    assert searched("{type: categorical, choices: [9, 2]}").first_rung == 7
    assert searched("{type: categorical, choices: [9, 2]}").max_epochs == 9
    assert searched("{type: float, ratio_of: training.batch_size, low: 0.05, high: 0.14}").max_epochs == 9


@pytest.mark.parametrize("scheduler", ["asha", "median", "hyperband"])
def test_where_nothing_can_be_stopped_it_is_told_what_to_do(scheduler: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space(schedule="{name: step, step_epochs: 19}", scheduler__name=scheduler)
    assert caught.value.problems == [
        "study.yaml:5: base.training.epochs must be above 20, the first epoch of a lower rate, "
        f"for {scheduler} to stop anything, got 20: set scheduler.grace_epochs, or scheduler.name to none"
    ]
    settings = {"schedule": "{name: step, step_epochs: 19}", "scheduler__name": scheduler}
    assert space(**settings, scheduler__grace_epochs="2", scheduler__brackets="2").first_rung == 2


def test_a_single_epoch_leaves_nothing_to_stop() -> None:
    with pytest.raises(
        SpaceError, match=r"above scheduler\.grace_epochs \(1\) for asha to stop anything, got 1$"
    ):
        space(training__epochs="1")


def test_brackets_begin_at_rungs_of_their_own() -> None:
    schedule = "{name: step, step_epochs: 5}"  # rungs from 6: the brackets begin at 6, 18 and 54
    assert space(schedule=schedule, scheduler="{name: hyperband, brackets: 2}").first_rung == 6
    with pytest.raises(SpaceError, match=r"epochs must be at least 54, where the last of .* \(3\) begins"):
        space(schedule=schedule, scheduler="{name: hyperband}")
