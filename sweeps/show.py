"""One trial, explained: what sets it apart, how it went, what it is worth, and where it is."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from rich.console import Group, RenderableType
from rich.text import Text

from distill.checkpoint import BEST, CARD
from distill.errors import InputError
from sweeps.columns import Column, duration, fitted_table, metric_text, setting_text, state_cell
from sweeps.curves import learning_curves
from sweeps.home import Home
from sweeps.leaderboard import TrialRow, rank
from sweeps.record import notes, run_page
from sweeps.space import SearchSpace
from sweeps.study import ATTEMPTS, TEACHER, load_study, read_space, trial_rows
from sweeps.tracking import flatten

SPARKS, ASCII_SPARKS = "▁▂▃▄▅▆▇█", "_,.-=+*#"
SPARK_WIDTH = 24
LESS, MORE = ("loss", "mse", "eer"), ("accuracy", "auc", "tar_at_far", "similarity")
"""What a metric's name tells of its better side."""
_HIDDEN_CURVES = ("train/lr", "train/faces_per_second")
_BY_GROUP = ("validation/shared_threshold_accuracy_", "validation/verification_accuracy_")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting that is this trial's own.

    Attributes:
        drawn: What was drawn, of a ratio the ratio; None where it follows from something else.
        set: The value that it was trained with.
        base: What the study's trials have where nothing is drawn.
        best: What the best trial of the study was trained with.
    """

    name: str
    drawn: Any
    set: Any
    base: Any
    best: Any


@dataclass(frozen=True, kw_only=True)
class TrialView:
    """All that is known of a trial.

    Attributes:
        best: The number of the study's best trial; None where none completed.
        teacher: The teacher's metrics on the validation pairs.
        curves: Every metric by epoch.
        attempts: Why it was begun again, each time.
        notes: What its MLflow tags tell beside.
        student: Folder of its best student.
        is_there: Whether that folder holds it still.
        page: Its run's address in MLflow; None where it has no run.
        is_served: Whether a server shows it; else `sweeps ui` does.
        trouble: Why there are no curves, where MLflow cannot be asked.
        repeat: The command that repeats it.
    """

    study: str
    row: TrialRow
    best: int | None
    objectives: Mapping[str, str]
    settings: Sequence[Setting]
    teacher: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    attempts: Sequence[str]
    notes: Mapping[str, str]
    student: Path
    is_there: bool
    page: str | None
    is_served: bool
    trouble: str | None
    repeat: str

    def document(self) -> dict[str, Any]:
        """As plain types, for `--json`."""
        row = self.row
        return {
            "study": self.study,
            "trial": row.number,
            "state": row.state,
            "reason": row.reason,
            "standing": asdict(row.standing) if row.standing else None,
            "best_trial": self.best,
            "settings": {
                setting.name: {key: value for key, value in asdict(setting).items() if key != "name"}
                for setting in self.settings
            },
            "metrics": row.metrics,
            "teacher": dict(self.teacher),
            "curves": {name: [list(point) for point in points] for name, points in self.curves.items()},
            "epochs": row.epochs,
            "seconds": row.seconds,
            "attempts": list(self.attempts),
            "notes": dict(self.notes),
            "student": str(self.student),
            "student_is_there": self.is_there,
            "run_id": row.run_id,
            "run_page": self.page,
            "repeat": self.repeat,
        }


def look_at(home: Home, name: str, number: int) -> TrialView:
    """Gathers what is known of a trial. An MLflow that does not answer costs the curves alone.

    Raises:
        InputError: If there is no such study or trial.
    """
    space, study = read_space(home, name), load_study(home, name)
    rows = rank(trial_rows(study, space), space.objectives, space.constraints)
    row = found_row(rows, name, number)
    best = next((other for other in rows if other.state == "complete"), None)
    page, tags, curves, trouble = _asked_of_mlflow(home, row)
    student = home.study(name).trial(number) / BEST
    return TrialView(
        study=name,
        row=row,
        best=None if best is None else best.number,
        objectives={objective.metric: objective.direction for objective in space.objectives},
        settings=_settings(space, row, best),
        teacher=study.user_attrs.get(TEACHER, {}),
        curves=curves,
        attempts=study.get_trials(deepcopy=False)[number].user_attrs.get(ATTEMPTS, []),
        notes=notes(tags),
        student=student,
        is_there=(student / CARD).is_file(),
        page=page,
        is_served=home.has_tracking_server,
        trouble=trouble,
        repeat=shlex.join(["sweeps", "rerun", name, str(number), "--home", home.address]),
    )


def found_row(rows: Sequence[TrialRow], study: str, number: int) -> TrialRow:
    """The trial of this number.

    Raises:
        InputError: If there is none.
    """
    found = next((row for row in rows if row.number == number), None)
    if found is None:
        numbers = sorted(row.number for row in rows)
        known = f"it has {numbers[0]} to {numbers[-1]}" if numbers else "it has none yet"
        raise InputError(f"study {study} has no trial {number}: {known}")
    return found


def resolved(space: SearchSpace, row: TrialRow) -> dict[str, Any]:
    """A trial's settings by dotted name."""
    return flatten(space.config(row.params, seed_offset=row.seed_offset).model_dump(mode="json"))


def as_text(view: TrialView, *, width: int, symbols: bool = True) -> RenderableType:
    """Lays a trial out for a terminal.

    Args:
        width: Of the terminal, in characters.
        symbols: Whether the terminal can show more than ASCII.
    """
    blocks = [_head(view, symbols=symbols)]
    tables = (_settings_table, _metrics_table, _curves_table)
    blocks += [made for table in tables if (made := table(view, width=width, symbols=symbols)) is not None]
    blocks.append(_whereabouts(view))
    gapped: list[RenderableType] = []
    for block in blocks:
        gapped += [block, ""]
    return Group(*gapped[:-1])


def sparkline(values: Sequence[float], *, symbols: bool = True, width: int = SPARK_WIDTH) -> str:
    """A curve in one line of at most `width` characters; evenly chosen values of a longer one."""
    sparks = SPARKS if symbols else ASCII_SPARKS
    count = min(len(values), width)
    chosen = [values[round(i * (len(values) - 1) / max(1, count - 1))] for i in range(count)]
    low, high = min(chosen), max(chosen)
    if high == low:
        return sparks[0] * count
    return "".join(sparks[round((value - low) / (high - low) * (len(sparks) - 1))] for value in chosen)


def better_side(metric: str, objectives: Mapping[str, str]) -> str | None:
    """`maximize` or `minimize`, as the objectives or else its name tell; None where neither does."""
    if metric in objectives:
        return objectives[metric]
    if any(word in metric for word in LESS):
        return "minimize"
    return "maximize" if any(word in metric for word in MORE) else None


def _asked_of_mlflow(
    home: Home, row: TrialRow
) -> tuple[str | None, Mapping[str, str], dict[str, list[tuple[int, float]]], str | None]:
    """A trial's page, tags and curves, and why there are none."""
    if row.run_id is None:
        return None, {}, {}, "it has no MLflow run"
    if (missing := home.missing_database) is not None:
        return None, {}, {}, f"there is no {missing}"
    try:
        run = MlflowClient(tracking_uri=home.tracking_uri).get_run(row.run_id)
        curves = learning_curves(home, row.run_id)
    except (MlflowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return None, {}, {}, f"MLflow at {home.tracking_uri} does not tell of it ({reason})"
    return run_page(home, run.info.experiment_id, row.run_id), run.data.tags, curves, None


def _settings(space: SearchSpace, row: TrialRow, best: TrialRow | None) -> list[Setting]:
    base, own = _base(space), resolved(space, row)
    of_best = {} if best is None else resolved(space, best)
    names = [*row.settings, *(["seed"] if row.seed_offset and "seed" not in row.settings else [])]
    return [
        Setting(
            name=name,
            drawn=row.params.get(name),
            set=row.settings.get(name, own.get(name)),
            base=base.get(name, space.fixed(name)),
            best=of_best.get(name),
        )
        for name in names
    ]


def _base(space: SearchSpace) -> dict[str, Any]:
    """What a trial is where nothing is drawn; empty where that is no trial."""
    try:
        return flatten(space.config({}).model_dump(mode="json"))
    except InputError:
        return {}


def _head(view: TrialView, *, symbols: bool) -> Text:
    row = view.row
    line = Text(f"trial {row.number} of {view.study}   ", style="bold")
    line.append_text(state_cell(row.state, symbols=symbols))
    facts = [f"{row.epochs} epoch{'' if row.epochs == 1 else 's'}"]
    facts += [duration(row.seconds)] if row.seconds else []
    if row.standing:
        facts.append("the best" if view.best == row.number else f"rank {row.standing.place}")
    if row.repeats is not None:
        facts.append(f"seed {row.seed_offset} more of trial {row.repeats}")
    line.append("".join(f"   {fact}" for fact in facts), style="not bold")
    return line if row.reason is None else line.append(f"\n{row.reason}", style="not bold")


def _settings_table(view: TrialView, *, width: int, symbols: bool) -> RenderableType | None:
    del symbols
    if not view.settings:
        return None
    columns = [
        Column("parameter", [setting.name for setting in view.settings]),
        Column("this", [setting_text(setting.set) for setting in view.settings]),
        Column("base", [_differing(s.base, s.set) for s in view.settings]),
    ]
    if any(s.drawn not in (None, s.set) for s in view.settings):
        drawn = ["" if s.drawn == s.set else setting_text(s.drawn) for s in view.settings]
        columns.append(Column("as drawn", drawn, keep=2))
    if view.best not in (None, view.row.number):
        best = [_differing(s.best, s.set) for s in view.settings]
        columns.append(Column(f"best (trial {view.best})", best, keep=1))
    return fitted_table(columns, width=width)


def _differing(value: Any, other: Any) -> str:
    return "same" if value == other else setting_text(value) or "unset"


def _metrics_table(view: TrialView, *, width: int, symbols: bool) -> RenderableType | None:
    del symbols
    metrics, teacher = view.row.metrics, view.teacher
    plain = [name for name in metrics if name.count("/") == 1 and not name.startswith(("train/", *_BY_GROUP))]
    names = list(dict.fromkeys([*(name for name in view.objectives if name in metrics), *plain]))
    if not names:
        return None
    columns = [
        Column("metric of the best epoch", names),
        Column("student", [metric_text(metrics[name]) for name in names], right=True),
    ]
    if teacher:
        shares = [f"{metrics[name] / teacher[name]:.1%}" if teacher.get(name) else "" for name in names]
        columns += [
            Column("teacher", [metric_text(teacher.get(name)) for name in names], right=True),
            Column("share", shares, right=True, keep=1),
        ]
    return fitted_table(columns, width=width)


def _curves_table(view: TrialView, *, width: int, symbols: bool) -> RenderableType | None:
    trained = [name for name in view.curves if name.startswith("train/") and name not in _HIDDEN_CURVES]
    wanted = [*view.objectives, *trained, "validation/teacher_similarity"]
    curves = {
        name: [value for _, value in view.curves[name] if math.isfinite(value)]
        for name in dict.fromkeys(wanted)
        if name in view.curves
    }
    curves = {name: values for name, values in curves.items() if values}
    if not curves:
        return None
    best = [_best(values, better_side(name, view.objectives)) for name, values in curves.items()]
    return fitted_table(
        [
            Column("curve", list(curves)),
            Column("", [sparkline(values, symbols=symbols) for values in curves.values()], keep=1),
            Column("first", [metric_text(values[0]) for values in curves.values()], right=True),
            Column("best", best, right=True),
            Column("last", [metric_text(values[-1]) for values in curves.values()], right=True),
        ],
        width=width,
    )


def _best(values: Sequence[float], side: str | None) -> str:
    if side is None:
        return ""
    return metric_text(max(values) if side == "maximize" else min(values))


def _whereabouts(view: TrialView) -> Text:
    lines = [f"begun again: {reason}" for reason in view.attempts]
    lines += [f"{name.removeprefix('mlflow.')}: {text}" for name, text in view.notes.items()]
    lines.append(f"student  {view.student}{'' if view.is_there else ' (it is not there)'}")
    if view.page is not None:
        lines.append(f"MLflow   {view.page}{'' if view.is_served else '  (while `sweeps ui` runs)'}")
    if view.trouble is not None:
        lines.append(f"no curves: {view.trouble}")
    if view.curves:
        lines.append(f"repeat   {view.repeat}")
    return Text("\n".join(lines))
