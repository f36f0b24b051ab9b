"""One trial is proposed: the first, the one asked for, or the one that a rule picks from a front."""

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from distill.errors import InputError, RefusedError
from sweeps.promotion.selection import how_chosen, knee, select
from sweeps.space import Bound, BudgetRule, SearchSpace, parse_space
from sweeps.study import OUTCOME

ACCURACY, PARAMETERS = "validation/verification_accuracy", "efficiency/parameters"
ONE = "{metric: validation/verification_accuracy, direction: maximize}"
TWO = f"{ONE}, {{metric: efficiency/parameters, direction: minimize}}"
SPACE = """
name: front
objectives: [{objectives}]
base: {{method: {{name: synthdistill}}}}
parameters:
  optimizer.lr: {{type: float, low: 1e-4, high: 1e-2, log: true}}
search: {{sampler: random, num_trials: 9}}
scheduler: {{name: none}}
promotion: {{model: face-student{more}}}
"""


def space(objectives: str, more: str = "") -> SearchSpace:
    return parse_space(SPACE.format(objectives=objectives, more=more), file="front.yaml")


def study(searched: SearchSpace, *rows: tuple[float, float], state: TrialState = TrialState.COMPLETE):
    """A study of which each trial has an accuracy and a number of parameters."""
    made = optuna.create_study(study_name="front", directions=searched.directions)
    for accuracy, parameters in rows:
        metrics = {ACCURACY: accuracy, PARAMETERS: parameters}
        made.add_trial(
            optuna.trial.create_trial(
                state=state,
                values=[metrics[o.metric] for o in searched.objectives] if state.name == "COMPLETE" else None,
                user_attrs={OUTCOME: {"metrics": metrics}},
            )
        )
    return made


FRONT = ((0.90, 1000.0), (0.89, 400.0), (0.80, 300.0), (0.70, 250.0), (0.88, 900.0))
"""The last is surpassed. The others lie, scaled, at (0, 1), (.05, .2), (.5, .07) and (1, 0)."""


def test_with_one_objective_the_first_of_the_leaderboard_is_proposed() -> None:
    searched = space(ONE)
    assert select(study(searched, *FRONT), searched, trial=None).number == 0
    assert how_chosen(searched, trial=None, rule=None) == f"first by {ACCURACY}"


def test_a_trial_may_be_asked_for_by_its_number() -> None:
    searched = space(TWO)
    assert select(study(searched, *FRONT), searched, trial=4).number == 4
    with pytest.raises(InputError, match="has no trial 9: it has 0 to 4"):
        select(study(searched, *FRONT), searched, trial=9)
    failed = study(searched, *FRONT, state=TrialState.FAIL)
    with pytest.raises(InputError, match="only a complete or pruned one has a student"):
        select(failed, searched, trial=0)


def test_a_front_without_a_rule_is_refused_and_every_way_out_is_named() -> None:
    searched = space(TWO)
    with pytest.raises(RefusedError) as refused:
        select(study(searched, *FRONT), searched, trial=None)
    said = str(refused.value)
    assert "2 objectives and 4 points that no other surpasses" in said
    assert all(way in said for way in ("--choose knee", "{best:", "--trial", "promotion.choose"))


def test_the_knee_is_proposed_where_the_space_says_so() -> None:
    searched = space(TWO, ", choose: knee")
    assert select(study(searched, *FRONT), searched, trial=None).number == 1
    assert how_chosen(searched, trial=None, rule="knee") == "the knee of the front"


@pytest.mark.parametrize(("limit", "expected"), [(950.0, 1), (350.0, 2), (260.0, 3), (2000.0, 0)])
def test_the_best_within_a_budget_is_proposed(limit: float, expected: int) -> None:
    searched = space(TWO)
    rule = BudgetRule(best=ACCURACY, within=(Bound(metric=PARAMETERS, at_most=limit),))
    assert select(study(searched, *FRONT), searched, trial=None, rule=rule).number == expected
    assert how_chosen(searched, trial=None, rule=rule).startswith(f"the best {ACCURACY} within {PARAMETERS}")


def test_what_is_smallest_may_be_the_best() -> None:
    searched = space(TWO)
    rule = BudgetRule(best=PARAMETERS, within=(Bound(metric=ACCURACY, at_least=0.85),))
    assert select(study(searched, *FRONT), searched, trial=None, rule=rule).number == 1


def test_a_budget_that_nothing_keeps_is_refused() -> None:
    searched = space(TWO)
    rule = BudgetRule(best=ACCURACY, within=(Bound(metric=PARAMETERS, at_most=100),))
    with pytest.raises(RefusedError, match="none of the 5 complete points of front keeps efficiency/param"):
        select(study(searched, *FRONT), searched, trial=None, rule=rule)


def test_a_study_without_a_complete_trial_has_nothing_to_propose() -> None:
    searched = space(TWO, ", choose: knee")
    with pytest.raises(RefusedError, match="has no complete trial"):
        select(study(searched, *FRONT, state=TrialState.FAIL), searched, trial=None)


@pytest.mark.parametrize("scale", [(1, 1), (1e6, 1e-3)])
def test_the_knee_of_a_known_front_is_found_whatever_the_units(scale: tuple[float, float]) -> None:
    """Of the hyperbola y = 1 / x from 1/4 to 4, which is symmetric, the knee is at x = y = 1."""
    x_N = np.array([0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0])
    assert knee(np.stack([x_N, 1 / x_N], axis=1) * scale) == 3


def test_the_knee_lies_farthest_from_the_line_between_the_ends() -> None:
    loss_N2 = np.random.default_rng(3).random((40, 2))
    loss_N2 = loss_N2[loss_N2[:, 0].argsort()]
    front = [row for i, row in enumerate(loss_N2) if i == 0 or row[1] < loss_N2[:i, 1].min()]
    scaled = (np.array(front) - np.min(front, 0)) / np.ptp(front, 0)
    start, end = scaled[0], scaled[-1]
    along = (end - start) / np.linalg.norm(end - start)
    below = [(start - p) @ np.array([-along[1], along[0]]) * np.sign(along[0]) for p in scaled]
    assert knee(np.array(front)) == int(np.argmax(below))
    assert max(below) > 0


def test_the_knee_of_a_sphere_lies_in_the_middle_of_its_octant() -> None:
    """With three objectives, those of a ball that is cut out of the corner of a cube."""
    angles = np.linspace(0, np.pi / 2, 9)
    points = [
        1 - np.array([np.cos(a) * np.sin(b), np.sin(a) * np.sin(b), np.cos(b)])
        for a in angles
        for b in angles
    ]
    middle = 1 - np.full(3, 3**-0.5)
    assert knee(np.array([*points, middle])) == len(points)


def test_an_objective_that_is_the_same_everywhere_moves_no_knee() -> None:
    front = np.array([[0.0, 1.0, 5.0], [0.1, 0.2, 5.0], [1.0, 0.0, 5.0]])
    assert knee(front) == knee(front[:, :2]) == 1
    assert knee(front[:1]) == 0


def test_of_two_ends_alone_the_first_is_taken() -> None:
    assert knee(np.array([[0.0, 1.0], [1.0, 0.0]])) == 0
