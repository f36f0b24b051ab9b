"""Every trial of a study, best first: as a table, as CSV and as JSON.

N: points, O: objectives
"""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from statistics import mean, stdev
from typing import Any, Literal

import numpy as np
from rich.table import Table

from sweeps.columns import Column, duration, fitted_table, metric_text, setting_text, short_names, state_cell
from sweeps.space import Bound, Objective

State = Literal["complete", "pruned", "infeasible", "failed", "interrupted", "running"]
_ORDER: tuple[State, ...] = ("complete", "pruned", "infeasible", "failed", "interrupted", "running")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a point of the space stands, over all its trainings that count.

    Those count that completed; of a finalist, those alone that confirm it: it became one by its others.

    Attributes:
        place: 1 for the best.
        front: 0 where no other point surpasses it in every objective, 1 where only those of front 0 do, ...
        mean: Of each objective.
        spread: Standard deviation of each objective over seeds; None with a single one.
        num_seeds: How many trainings count.
        is_confirmed: Whether they are further seeds, which had no part in choosing it.
    """

    place: int
    front: int
    mean: list[float]
    spread: list[float] | None
    num_seeds: int
    is_confirmed: bool


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """What one trial came to.

    Attributes:
        number: Optuna's.
        values: One an objective, at the trial's best epoch; None when it reported nothing.
        params: What was drawn, by dotted name; what did not exist in this trial is absent.
        settings: What it was trained with under these names: of a ratio, the product.
        metrics: Of its best epoch.
        epochs: How many it finished.
        run_id: Its record in MLflow.
        reason: Why it did not complete, in a sentence.
        checkpoint: Folder of its state and its best student.
        repeats: Number of the trial that drew its point, where it trains one again with another seed.
        seed_offset: What was added to the seed of that trial.
        confirms: Whether it was trained to confirm a finalist.
        standing: Of its point, once ranked; None where it did not complete.
    """

    number: int
    state: State
    repeats: int | None = None
    seed_offset: int = 0
    confirms: bool = False
    values: list[float] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    epochs: int = 0
    seconds: float = 0.0
    run_id: str | None = None
    reason: str | None = None
    checkpoint: str | None = None
    standing: Standing | None = None

    @property
    def point(self) -> int:
        """Number of the trial that drew its point first."""
        return self.number if self.repeats is None else self.repeats


def rank(
    rows: Iterable[TrialRow], objectives: Sequence[Objective], constraints: Sequence[Bound]
) -> list[TrialRow]:
    """Sorts trials, best first, and tells how their points stand.

    Completed ones lead, by the standing of their points: finalists that were confirmed come first, then those
    that no other surpasses in every objective, then those that only they surpass, and so on; alike ones by
    the first objective. Trainings of one point stand together, the best first. Then come trials that were
    stopped early, by what they had reached, then infeasible, failed, interrupted and running ones. Completed
    trials that break a constraint are infeasible, which only their training showed.
    """
    judged = [_judged(row, constraints) for row in rows]
    standings = _standings([row for row in judged if row.state == "complete"], objectives)

    def key(row: TrialRow) -> tuple[int, int, float, int]:
        place = row.standing.place if row.standing else 0
        return _ORDER.index(row.state), place, _losses(row.values, objectives)[0], row.number

    stood = (replace(r, standing=standings[r.point]) if r.state == "complete" else r for r in judged)
    return sorted(stood, key=key)


def best_rows(ranked: Iterable[TrialRow]) -> list[TrialRow]:
    """The best training of each point that completed, in the order of their places."""
    by_point: dict[int, TrialRow] = {}
    for row in ranked:
        if row.standing is not None:
            by_point.setdefault(row.point, row)
    return list(by_point.values())


def _standings(complete: Sequence[TrialRow], objectives: Sequence[Objective]) -> dict[int, Standing]:
    """How points stand, by the number of the trial that drew them."""
    trainings: dict[int, list[TrialRow]] = defaultdict(list)
    for row in complete:
        trainings[row.point].append(row)
    drafts: dict[int, Standing] = {}
    for confirmed in (True, False):
        scores: dict[int, list[list[float]]] = {}
        for point, rows in trainings.items():
            confirming = [row for row in rows if row.confirms]
            if bool(confirming) == confirmed:
                scores[point] = [row.values or [] for row in confirming or rows]
        means = {
            point: [mean(values) for values in zip(*rows, strict=True)] for point, rows in scores.items()
        }
        losses = {point: _losses(values, objectives) for point, values in means.items()}
        fronts = _pareto_fronts(losses)
        for point in sorted(losses, key=lambda point: (fronts[point], losses[point][0], point)):
            rows = scores[point]
            drafts[point] = Standing(
                place=len(drafts) + 1,
                front=fronts[point],
                mean=means[point],
                spread=[stdev(values) for values in zip(*rows, strict=True)] if len(rows) > 1 else None,
                num_seeds=len(rows),
                is_confirmed=confirmed,
            )
    return drafts


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

    Of a point that was trained with several seeds, its best trial stands for all of them, beside their mean.

    Args:
        teacher: Its metrics, for a first row to compare with.
        limit: How many trials are shown. None: all.
        width: Of the terminal, in characters.
        symbols: Whether the terminal can show more than ASCII.
    """
    columns = _columns(rows, objectives, teacher=teacher, limit=limit, symbols=symbols)
    return fitted_table(columns, width=width)


def as_markdown(
    rows: Sequence[TrialRow],
    objectives: Sequence[Objective],
    *,
    teacher: Mapping[str, float] | None = None,
    limit: int | None = None,
) -> str:
    """Writes the columns of `as_table`, all of them and by their whole names, as a table in Markdown."""
    columns = _columns(rows, objectives, teacher=teacher, limit=limit, in_full=True)
    lines = [[column.head for column in columns], ["--:" if column.right else "---" for column in columns]]
    lines += [list(map(str, cells)) for cells in zip(*(column.cells for column in columns), strict=True)]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def as_html(
    rows: Sequence[TrialRow],
    objectives: Sequence[Objective],
    *,
    teacher: Mapping[str, float] | None = None,
) -> str:
    """Writes the columns of `as_table`, all of them and by their whole names, as a page."""
    columns = _columns(rows, objectives, teacher=teacher, limit=None, in_full=True)
    cells = [[column.head for column in columns]]
    cells += [list(map(str, line)) for line in zip(*(column.cells for column in columns), strict=True)]
    tags = ["th", *["td"] * (len(cells) - 1)]
    body = "".join(
        f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in line)}</tr>\n"
        for tag, line in zip(tags, cells, strict=True)
    )
    style = "body{font:14px sans-serif}td,th{padding:2px 10px;text-align:right}th{border-bottom:1px solid}"
    head = f'<meta charset="utf-8"><title>leaderboard</title><style>{style}</style>'
    return f"<!doctype html>\n{head}\n<table>\n{body}</table>\n"


def as_csv(rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> str:
    """Writes ranked trials as CSV: their objectives, then everything else that is known of them."""
    objective_names = [objective.metric for objective in objectives]
    params = _params(rows)
    others = sorted({name for row in rows for name in row.metrics} - set(objective_names))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    about = ["epochs", "seconds", "run_id", "reason", "checkpoint"]
    standing = [
        "point",
        "seed_offset",
        "seeds",
        *(f"{of}/{n}" for of in ("mean", "spread") for n in objective_names),
    ]
    writer.writerow(["rank", "trial", "state", *objective_names, *standing, *params, *others, *about])
    for row in rows:
        writer.writerow(
            [
                _place(row),
                row.number,
                row.state,
                *(row.values or [None] * len(objectives)),
                row.point,
                row.seed_offset,
                row.standing.num_seeds if row.standing else None,
                *((row.standing.mean if row.standing else None) or [None] * len(objectives)),
                *((row.standing.spread if row.standing else None) or [None] * len(objectives)),
                *(row.settings.get(name) for name in params),
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
                "rank": row.standing.place if row.standing else None,
                "trial": row.number,
                "point": row.point,
                "seed_offset": row.seed_offset,
                "standing": asdict(row.standing) if row.standing else None,
                "state": row.state,
                "reason": row.reason,
                "values": row.values,
                "parameters": row.settings,
                "metrics": row.metrics,
                "epochs": row.epochs,
                "seconds": row.seconds,
                "run_id": row.run_id,
                "checkpoint": row.checkpoint,
            }
            for row in rows
        ],
    }


def _columns(
    rows: Sequence[TrialRow],
    objectives: Sequence[Objective],
    *,
    teacher: Mapping[str, float] | None,
    limit: int | None,
    symbols: bool = False,
    in_full: bool = False,
) -> list[Column]:
    """The columns of a leaderboard, with the teacher's row first where there is one.

    Args:
        in_full: Whether objectives and parameters head their columns with all of their names.
    """
    repeated = any(row.point != row.number for row in rows)
    leaders = {row.number for row in best_rows(rows)}
    shown = [row for row in rows if row.standing is None or row.number in leaders][:limit]
    states: list[str] = [row.state for row in shown]
    columns = [
        Column("rank", [_place(row) for row in shown], right=True),
        Column("trial", [str(row.number) for row in shown], right=True),
        Column("state", [state_cell(state, symbols=symbols) for state in states]),
    ]
    heads = short_names([objective.metric for objective in objectives])
    for index, objective in enumerate(objectives):
        short = heads[objective.metric] if len(objectives) > 1 else "value"
        head = objective.metric if in_full else short
        columns.append(Column(head, [_value_text(row, index, repeated) for row in shown], right=True))
    if repeated:
        seeds = [str(row.standing.num_seeds) if row.standing else "" for row in shown]
        columns.append(Column("seeds", seeds, right=True))
    columns += [
        Column("epochs", [str(row.epochs or "") for row in shown], right=True),
        Column("time", [duration(row.seconds) if row.seconds else "" for row in shown], right=True, keep=2),
    ]
    parameters = short_names(_params(rows))
    for index, (name, short) in enumerate(parameters.items(), start=3):
        head = name if in_full else short
        columns.append(Column(head, [setting_text(row.settings.get(name)) for row in shown], keep=index))
    if teacher is not None:
        own = ["", "", "teacher", *(metric_text(teacher.get(objective.metric)) for objective in objectives)]
        columns = [
            replace(column, cells=[cell, *column.cells])
            for column, cell in zip(columns, own + [""] * (len(columns) - len(own)), strict=True)
        ]
    return columns


def _params(rows: Iterable[TrialRow]) -> list[str]:
    """The parameters of any of these trials, in the order of those that have the most."""
    by_count = sorted(rows, key=lambda row: -len(row.settings))
    return list(dict.fromkeys(name for row in by_count for name in row.settings))


def _place(row: TrialRow) -> str:
    return str(row.standing.place) if row.standing else ""


def _value_text(row: TrialRow, index: int, repeated: bool) -> str:
    """An objective's value: the mean of a point's seeds and their spread where there are any."""
    if row.standing is None or not repeated:
        return metric_text(row.values[index]) if row.values else ""
    spread = row.standing.spread
    return metric_text(row.standing.mean[index]) + (f" ± {metric_text(spread[index])}" if spread else "")


def _judged(row: TrialRow, constraints: Sequence[Bound]) -> TrialRow:
    broken = [c for c in constraints if c.metric in row.metrics and c.violation(row.metrics[c.metric]) > 0]
    if row.state != "complete" or not broken:
        return row
    kept = ", ".join(str(constraint) for constraint in broken)
    return replace(row, state="infeasible", reason=f"it does not keep {kept}")


def _losses(values: Sequence[float] | None, objectives: Sequence[Objective]) -> list[float]:
    """The objectives' values, less being better; infinite where there are none."""
    if values is None:
        return [math.inf] * len(objectives)
    return [
        -value if objective.direction == "maximize" else value
        for value, objective in zip(values, objectives, strict=True)
    ]


def _pareto_fronts(losses: Mapping[int, Sequence[float]]) -> dict[int, int]:
    """The front of each point: 0 where none dominates it, 1 where only those of front 0 do, ...

    One dominates another if it is at least as good in everything, and better in something.
    """
    if not losses:
        return {}
    points, loss_NO = np.array(list(losses)), np.array(list(losses.values()))
    no_worse_NN = np.all(loss_NO[:, None] <= loss_NO[None], axis=2)
    dominates_NN = no_worse_NN & ~no_worse_NN.T
    fronts: dict[int, int] = {}
    left_N = np.ones(len(points), dtype=bool)
    while left_N.any():
        best_N = left_N & ~dominates_NN[left_N].any(0)
        fronts |= dict.fromkeys(points[best_N].tolist(), max(fronts.values(), default=-1) + 1)
        left_N &= ~best_N
    return fronts
