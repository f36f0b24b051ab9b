"""Which trial of a study is proposed.

With one objective, the first of the leaderboard. With several there is no first, but a front of points that
no other surpasses in every objective, and a rule that picks one of them. A point that was trained with
several seeds counts by the mean of them, and its best training is proposed.

N: points of the front, M: objectives
"""

from collections.abc import Sequence

import numpy as np
import optuna

from distill.errors import InputError, RefusedError
from sweeps.leaderboard import Standing, TrialRow, best_rows, rank
from sweeps.space import BudgetRule, Objective, SearchSpace
from sweeps.space.promotion import AnyRule
from sweeps.study import trial_rows

_TIE = 1e-9


def select(
    study: optuna.Study, space: SearchSpace, *, trial: int | None, rule: AnyRule | None = None
) -> TrialRow:
    """The trial that is proposed: the one asked for, else the one that the rule picks.

    Args:
        rule: How it is chosen; None takes the space's own, else the first of the leaderboard.

    Raises:
        InputError: If there is no such trial, or it has no student to hand over.
        RefusedError: If no trial is complete and feasible, none is within the budget, or there are several
            objectives and no rule.
    """
    rows = trial_rows(study, space)
    if trial is not None:
        return _asked_for(study, rows, trial)
    points = best_rows(rank(rows, space.objectives, space.constraints))
    if not points:
        raise RefusedError(f"study {study.study_name} has no complete trial to promote")
    match rule or (space.promotion.choose if space.promotion else None):
        case BudgetRule() as budget:
            return _best_within(study, space, points, budget)
        case "knee":
            front = _front(points)
            return front[knee(_losses(front, space.objectives))]
        case _ if len(space.objectives) > 1:
            raise RefusedError(
                f"study {study.study_name} has {len(space.objectives)} objectives and {len(_front(points))} "
                "points that no other surpasses: choose by `--choose knee`, "
                "`--choose '{best: METRIC, within: [LIMIT, ...]}'`, `--trial NUMBER`, or promotion.choose in "
                "the space"
            )
    return points[0]


def how_chosen(space: SearchSpace, *, trial: int | None, rule: AnyRule | None) -> str:
    """What `select` goes by, in a few words."""
    if trial is not None:
        return "asked for by its number"
    if rule == "knee":
        return "the knee of the front"
    return f"the {rule}" if rule else f"first by {space.objectives[0].metric}"


def knee(loss_NM: np.ndarray) -> int:
    """Where a front bulges out farthest: index of the point from which any gain in one objective costs most.

    Objectives are scaled so that over the front the best value is 0 and the worst 1. The corners are the
    points that are best in one objective and worst in all others; with two objectives these are the ends of
    the front. The knee lies farthest from the hyperplane through the corners, on the side of the ideal. After
    Das, "On characterizing the 'knee' of the Pareto curve based on Normal-Boundary Intersection", Structural
    Optimization 18, 1999, https://doi.org/10.1007/BF01195985, where the hyperplane goes through the minima of
    the single objectives: corners stand for these, which need not span one where there are three or more.

    Args:
        loss_NM: What each point of the front has of each objective, less being better.

    Returns:
        The first of those that lie equally far.
    """
    low_M, high_M = loss_NM.min(0), loss_NM.max(0)
    span_M = np.where(high_M > low_M, high_M - low_M, 1.0)
    scaled_NM = (loss_NM - low_M) / span_M
    num_objectives = (high_M > low_M).sum()  # one that is the same in all points tells nothing
    distance_N = (num_objectives - 1 - scaled_NM.sum(1)) / np.sqrt(max(num_objectives, 1))
    return int(np.flatnonzero(distance_N >= distance_N.max() - _TIE)[0])


def _asked_for(study: optuna.Study, rows: Sequence[TrialRow], trial: int) -> TrialRow:
    found = next((row for row in rows if row.number == trial), None)
    if found is None:
        raise InputError(f"study {study.study_name} has no trial {trial}: it has 0 to {len(rows) - 1}")
    if found.state not in ("complete", "pruned"):
        raise InputError(
            f"trial {trial} is {found.state}: only a complete or pruned one has a student to promote"
        )
    return found


def _best_within(
    study: optuna.Study, space: SearchSpace, points: Sequence[TrialRow], budget: BudgetRule
) -> TrialRow:
    """The best of those within the budget; confirmed points come before the others, as they are ranked."""
    affordable = [
        row
        for row in points
        if all(b.metric in row.metrics and b.violation(row.metrics[b.metric]) <= 0 for b in budget.within)
    ]
    if not affordable:
        limits = " and ".join(map(str, budget.within))
        raise RefusedError(f"none of the {len(points)} complete points of {study.study_name} keeps {limits}")
    alike = _as_confirmed_as_the_first(affordable)
    decides = [objective.metric for objective in space.objectives].index(budget.best)
    return alike[int(_losses(alike, space.objectives)[:, decides].argmin())]


def _front(points: Sequence[TrialRow]) -> list[TrialRow]:
    """Those that no other surpasses; of finalists alone, where there are any that were confirmed."""
    return [row for row in _as_confirmed_as_the_first(points) if _standing(row).front == 0]


def _as_confirmed_as_the_first(points: Sequence[TrialRow]) -> list[TrialRow]:
    is_confirmed = _standing(points[0]).is_confirmed
    return [row for row in points if _standing(row).is_confirmed == is_confirmed]


def _losses(points: Sequence[TrialRow], objectives: Sequence[Objective]) -> np.ndarray:
    """What each point has of each objective, the mean over its seeds, less being better, of shape (N, M)."""
    sign_M = [-1.0 if objective.direction == "maximize" else 1.0 for objective in objectives]
    return np.array([_standing(row).mean for row in points]) * sign_M


def _standing(row: TrialRow) -> Standing:
    assert row.standing is not None, "points that completed are ranked"
    return row.standing
