"""A study learns from another's trials where they are points of its own space, and says how many are."""

from pathlib import Path

import optuna
import pytest

from distill.errors import InputError
from sweeps.agenda import Agenda
from sweeps.home import Home
from sweeps.leaderboard import rank
from sweeps.space import SearchSpace, parse_space
from sweeps.study import OUTCOME, create_study, num_told, trial_rows
from sweeps.warm_start import require_alike, warm_start

METRIC = "validation/verification_accuracy"


def space(
    name: str, parameters: str, *, base: str = "", search: str = "", metric: str = METRIC
) -> SearchSpace:
    return parse_space(
        f"""
name: {name}
objectives: [{{metric: {metric}, direction: maximize}}]
base: {{faces: {{name: embedded, size_px: 16}}, {base}}}
parameters: {{{parameters}}}
search: {{num_trials: 3, sampler: tpe, {search}}}
""",
        file=f"{name}.yaml",
    )


LR = "optimizer.lr: {type: float, low: 1e-4, high: 1e-1, log: true}"
NARROW = "optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}"
STUDENT = """
student.name: {type: categorical, choices: [bridge_tiny, mobilefacenet]},
student.width: {type: float, low: 0.5, high: 1.0, when: {student.name: mobilefacenet}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(str(tmp_path / "home"))
    home.ensure()
    return home


def tried(home: Home, of: SearchSpace, *points: dict) -> optuna.Study:
    """A study that completed these points."""
    folder = home.study(of.name)
    folder.root.mkdir()
    folder.space.write_text(of.to_yaml())
    study = create_study(home, of.name, of)
    for index, point in enumerate(points):
        study.enqueue_trial(point)
        trial = study.ask()
        of.sample(trial)
        trial.set_user_attr(OUTCOME, {"reason": None, "metrics": {METRIC: index / 10}, "seconds": 1.0})
        study.tell(trial, index / 10)
    return study


def taken_over(home: Home, by: SearchSpace) -> tuple[optuna.Study, tuple[int, int]]:
    require_alike(by, home=home)
    study = create_study(home, by.name, by)
    return study, warm_start(study, by, home=home)


def test_trials_inside_the_new_ranges_fit(home: Home) -> None:
    tried(home, space("old", LR), {"optimizer.lr": 1e-3}, {"optimizer.lr": 5e-2})
    study, counts = taken_over(home, space("new", NARROW, search="warm_start: old"))
    assert counts == (1, 2)
    assert [(t.params, t.value) for t in study.trials] == [({"optimizer.lr": 1e-3}, 0.0)]


def test_what_one_space_fixes_may_be_searched_by_the_other(home: Home) -> None:
    points = [{"student.name": "bridge_tiny"}, {"student.name": "mobilefacenet", "student.width": 0.75}]
    tried(home, space("old", STUDENT, base="optimizer: {lr: 1e-3}"), *points)
    fixed = space("fixed", LR, base="student: {name: bridge_tiny}", search="warm_start: old")
    study, counts = taken_over(home, fixed)
    assert counts == (1, 2)
    assert study.trials[0].params == {"optimizer.lr": 1e-3}


def test_a_condition_that_does_not_hold_here_does_not_fit(home: Home) -> None:
    tried(home, space("old", STUDENT), {"student.name": "mobilefacenet", "student.width": 0.75})
    other = space("other", STUDENT.replace("low: 0.5", "low: 0.8"), search="warm_start: old")
    assert taken_over(home, other)[1] == (0, 1)


def test_they_are_no_trials_of_the_study(home: Home) -> None:
    tried(home, space("old", LR), *({"optimizer.lr": 10.0**-n} for n in (1, 2, 3)))
    new = space("new", LR, search="warm_start: old")
    study, counts = taken_over(home, new)
    assert counts == (3, 3)
    assert num_told(study) == 0
    assert rank(trial_rows(study, new), new.objectives, []) == []
    agenda, drawn = Agenda(study=study, space=new), 0
    while agenda.next(searches=True) == "train":
        trial = study.ask()
        new.sample(trial)
        trial.set_user_attr(OUTCOME, {"reason": None, "metrics": {METRIC: 0.5}, "seconds": 1.0})
        study.tell(trial, 0.5)
        drawn += 1
    assert drawn == 3


def test_other_objectives_are_refused(home: Home) -> None:
    tried(home, space("old", LR), {"optimizer.lr": 1e-3})
    other = space("new", LR, search="warm_start: old", metric="validation/auc")
    with pytest.raises(
        InputError, match=r"search\.warm_start must name a study with the objectives validation/auc"
    ):
        require_alike(other, home=home)


def test_a_study_that_is_not_there_is_refused(home: Home) -> None:
    with pytest.raises(InputError, match="there is no study 'nothing'"):
        require_alike(space("new", LR, search="warm_start: nothing"), home=home)
