"""Every trial of a study, best first: as a table, as CSV and as JSON."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rich.table import Table

from sweeps.columns import Column, duration, fitted_table, metric_text, setting_text, short_names, state_cell
from sweeps.space import Bound, Objective

State = Literal["complete", "pruned", "infeasible", "failed", "interrupted", "running"]
_ORDER: tuple[State, ...] = ("complete", "pruned", "infeasible", "failed", "interrupted", "running")


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """What one trial came to.

    Attributes:
        number: Optuna's.
        values: One an objective, at the trial's best epoch; None when it reported nothing.
        params: By dotted name; those that did not exist in this trial are absent.
        metrics: Of its best epoch.
        epochs: How many it finished.
        run_id: Its record in MLflow.
        reason: Why it did not complete, in a sentence.
        checkpoint: Folder of its state and its best student.
    """

    number: int
    state: State
    values: list[float] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    epochs: int = 0
    seconds: float = 0.0
    run_id: str | None = None
    reason: str | None = None
    checkpoint: str | None = None


def rank(
    rows: Iterable[TrialRow], objectives: Sequence[Objective], constraints: Sequence[Bound]
) -> list[TrialRow]:
    """Sorts trials, best first.

    Completed ones lead: those that no other surpasses in every objective, then those that only they surpass,
    and so on; alike ones by the first objective. Then come trials that were stopped early, by what they had
    reached, then infeasible, failed, interrupted and running ones. Completed trials that break a constraint
    are infeasible, which only their training showed.
    """
    judged = [_judged(row, constraints) for row in rows]
    fronts = _pareto_fronts([row for row in judged if row.state == "complete"], objectives)

    def key(row: TrialRow) -> tuple[int, int, float, int]:
        first = _losses(row, objectives)[0]
        return _ORDER.index(row.state), fronts.get(row.number, 0), first, row.number

    return sorted(judged, key=key)


def as_table(
    rows: Sequence[TrialRow],
    objectives: Sequence[Objective],
    *,
    teacher: Mapping[str, float] | None = None,
    limit: int | None = None,
    width: int = 120,
    symbols: bool = True,
) -> Table:
    """Lays ranked trials out in columns. Parameters that do not fit the width are left out, the last first.

    Args:
        teacher: Its metrics, for a first row to compare with.
        limit: How many trials are shown. None: all.
        width: Of the terminal, in characters.
        symbols: Whether the terminal can show more than ASCII.
    """
    shown = rows[:limit]
    states: list[str] = [row.state for row in shown]
    columns = [
        Column("rank", [_place(row, index) for index, row in enumerate(shown, start=1)], right=True),
        Column("trial", [str(row.number) for row in shown], right=True),
        Column("state", [state_cell(state, symbols=symbols) for state in states]),
    ]
    heads = short_names([objective.metric for objective in objectives])
    for index, objective in enumerate(objectives):
        head = heads[objective.metric] if len(objectives) > 1 else "value"
        values = [metric_text(row.values[index]) if row.values else "" for row in shown]
        columns.append(Column(head, values, right=True))
    columns += [
        Column("epochs", [str(row.epochs or "") for row in shown], right=True),
        Column("time", [duration(row.seconds) if row.seconds else "" for row in shown], right=True, keep=2),
    ]
    parameters = short_names(_params(rows))
    for index, (name, head) in enumerate(parameters.items(), start=3):
        columns.append(Column(head, [setting_text(row.params.get(name)) for row in shown], keep=index))
    if teacher is not None:
        own = ["", "", "teacher", *(metric_text(teacher.get(objective.metric)) for objective in objectives)]
        columns = [
            replace(column, cells=[cell, *column.cells])
            for column, cell in zip(columns, own + [""] * (len(columns) - len(own)), strict=True)
        ]
    return fitted_table(columns, width=width)


def as_csv(rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> str:
    """Writes ranked trials as CSV: their objectives, then everything else that is known of them."""
    objective_names = [objective.metric for objective in objectives]
    params = _params(rows)
    others = sorted({name for row in rows for name in row.metrics} - set(objective_names))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    about = ["epochs", "seconds", "run_id", "reason", "checkpoint"]
    writer.writerow(["rank", "trial", "state", *objective_names, *params, *others, *about])
    for index, row in enumerate(rows, start=1):
        writer.writerow(
            [
                _place(row, index),
                row.number,
                row.state,
                *(row.values or [None] * len(objectives)),
                *(row.params.get(name) for name in params),
                *(row.metrics.get(name) for name in others),
                *(getattr(row, name) for name in about),
            ]
        )
    return text.getvalue()


def as_json(
    rows: Sequence[TrialRow],
    objectives: Sequence[Objective],
    *,
    study: str,
    selection: str = "validation",
    teacher: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Everything that is known of ranked trials, in plain types for `json.dumps`.

    Args:
        selection: The pairs that trials were ranked on.
        teacher: Its metrics, to compare with.
    """
    return {
        "study": study,
        "selection": selection,
        "objectives": [objective.model_dump() for objective in objectives],
        "teacher": None if teacher is None else dict(teacher),
        "trials": [
            {
                "rank": index if row.state == "complete" else None,
                "trial": row.number,
                "state": row.state,
                "reason": row.reason,
                "values": row.values,
                "parameters": row.params,
                "metrics": row.metrics,
                "epochs": row.epochs,
                "seconds": row.seconds,
                "run_id": row.run_id,
                "checkpoint": row.checkpoint,
            }
            for index, row in enumerate(rows, start=1)
        ],
    }


def _params(rows: Iterable[TrialRow]) -> list[str]:
    """The parameters of any of these trials, in the order of those that have the most."""
    by_count = sorted(rows, key=lambda row: -len(row.params))
    return list(dict.fromkeys(name for row in by_count for name in row.params))


def _place(row: TrialRow, index: int) -> str:
    return str(index) if row.state == "complete" else ""


def _judged(row: TrialRow, constraints: Sequence[Bound]) -> TrialRow:
    broken = [c for c in constraints if c.metric in row.metrics and c.violation(row.metrics[c.metric]) > 0]
    if row.state != "complete" or not broken:
        return row
    kept = ", ".join(str(constraint) for constraint in broken)
    return replace(row, state="infeasible", reason=f"it does not keep {kept}")


def _losses(row: TrialRow, objectives: Sequence[Objective]) -> list[float]:
    """The objectives' values, less being better; infinite where the trial has none."""
    if row.values is None:
        return [math.inf] * len(objectives)
    return [
        -value if objective.direction == "maximize" else value
        for value, objective in zip(row.values, objectives, strict=True)
    ]


def _pareto_fronts(rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> dict[int, int]:
    """The front of each trial, by number: 0 where none dominates it, 1 where only those of front 0 do, ..."""
    losses = {row.number: _losses(row, objectives) for row in rows}
    fronts: dict[int, int] = {}
    while left := losses.keys() - fronts.keys():
        best = {n for n in left if not any(_dominates(losses[other], losses[n]) for other in left)}
        fronts |= dict.fromkeys(best, max(fronts.values(), default=-1) + 1)
    return fronts


def _dominates(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Whether the first are at least as good in everything, and better in something."""
    return losses != others and all(a <= b for a, b in zip(losses, others, strict=True))
