"""Which trial of a study is proposed.

With one objective, the first of the leaderboard. With several there is no first, but a front of trials that
no other surpasses in every objective, and a rule that picks one of them.

N: trials of the front, M: objectives
"""

from collections.abc import Sequence

import numpy as np
import optuna

from distill.errors import InputError, RefusedError
from sweeps.leaderboard import TrialRow, rank
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
    ranked = [row for row in rank(rows, space.objectives, space.constraints) if row.state == "complete"]
    if not ranked:
        raise RefusedError(f"study {study.study_name} has no complete trial to promote")
    match rule or (space.promotion.choose if space.promotion else None):
        case BudgetRule() as budget:
            return _best_within(study, space, ranked, budget)
        case "knee":
            front = _front(ranked, space.objectives)
            return front[knee(_losses(front, space.objectives))]
        case _ if len(space.objectives) > 1:
            num_equals = len(_front(ranked, space.objectives))
            raise RefusedError(
                f"study {study.study_name} has {len(space.objectives)} objectives and {num_equals} trials "
                "that no other surpasses: choose by `--choose knee`, "
                "`--choose '{best: METRIC, within: [LIMIT, ...]}'`, `--trial NUMBER`, or promotion.choose in "
                "the space"
            )
    return ranked[0]


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
    study: optuna.Study, space: SearchSpace, ranked: Sequence[TrialRow], budget: BudgetRule
) -> TrialRow:
    decides = [objective.metric for objective in space.objectives].index(budget.best)
    affordable = [
        row
        for row in ranked
        if all(bound.violation(row.metrics[bound.metric]) <= 0 for bound in budget.within)
    ]
    if not affordable:
        limits = " and ".join(map(str, budget.within))
        raise RefusedError(f"none of the {len(ranked)} complete trials of {study.study_name} keeps {limits}")
    return affordable[int(_losses(affordable, space.objectives)[:, decides].argmin())]


def _front(ranked: Sequence[TrialRow], objectives: Sequence[Objective]) -> list[TrialRow]:
    """Those that no other surpasses: as good in everything and better in something."""
    loss_NM = _losses(ranked, objectives)
    surpassed = [bool(((loss_NM <= loss_M).all(1) & (loss_NM < loss_M).any(1)).any()) for loss_M in loss_NM]
    return [row for row, is_surpassed in zip(ranked, surpassed, strict=True) if not is_surpassed]


def _losses(rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> np.ndarray:
    """What each trial has of each objective, less being better, of shape (N, M)."""
    sign_M = [-1.0 if objective.direction == "maximize" else 1.0 for objective in objectives]
    return np.array([row.values for row in rows]) * sign_M
