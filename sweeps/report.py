"""What a person or a script is told of a sweep: its leaderboard, its end, and where to look next."""

import io
import json
import shlex
import shutil
from typing import Any

from rich.console import Console

from sweeps.home import Home, masked
from sweeps.leaderboard import as_csv, as_json, as_table, best_rows, rank
from sweeps.space import SearchSpace
from sweeps.study import TEACHER, load_study, read_space, trial_rows
from sweeps.sweep import SweepResult
from sweeps.terminal import SweepDisplay

UI = "http://127.0.0.1:5000"
"""Where `sweeps ui` serves unless told otherwise."""


def leaderboard_text(home: Home, name: str, *, form: str) -> str:
    """Every trial of a study, best first.

    Args:
        form: `table`, `csv` or `json`.

    Raises:
        InputError: If this home has no study of that name.
    """
    space = read_space(home, name)
    study = load_study(home, name)
    rows = rank(trial_rows(study, space), space.objectives, space.constraints)
    teacher = study.user_attrs.get(TEACHER)
    if form == "csv":
        return as_csv(rows, space.objectives)
    if form == "json":
        document = as_json(rows, space.objectives, study=name, selection=space.selection, teacher=teacher)
        return json.dumps(document, indent=2) + "\n"
    width = shutil.get_terminal_size((120, 40)).columns
    text = io.StringIO()
    Console(file=text, width=width).print(as_table(rows, space.objectives, teacher=teacher, width=width))
    for sentence in _selected_on(space):
        text.write(f"{sentence}\n")
    return text.getvalue()


def conclude(
    result: SweepResult, space: SearchSpace, home: Home, display: SweepDisplay, *, as_json: bool
) -> None:
    """Shows how a sweep ended: its leaderboard, what won, where it is registered, and how to look at it."""
    if as_json:
        display.print(json.dumps(result_document(result, space, home), indent=2))
        return
    display.finished(result.rows, teacher=result.teacher, sentences=_sentences(result, space, home))


def result_document(result: SweepResult, space: SearchSpace, home: Home) -> dict[str, Any]:
    """How a sweep ended, in plain types."""
    return {
        **leaderboard_document(result, space),
        "tracking_uri": masked(home.tracking_uri),
        "home": home.address,
        "resume": _command("resume", result.name, home),
        "interrupted": result.interrupted,
        "ended": result.ended,
        "promotion": result.promotion.document() if result.promotion else None,
        "refusal": result.refusal,
        "seconds": result.seconds,
    }


def leaderboard_document(result: SweepResult, space: SearchSpace) -> dict[str, Any]:
    """The leaderboard at a sweep's end, in plain types."""
    return as_json(
        result.rows, space.objectives, study=result.name, selection=space.selection, teacher=result.teacher
    )


def _sentences(result: SweepResult, space: SearchSpace, home: Home) -> list[str]:
    ended = [f"ended since {result.ended}"] if result.ended else []
    lines = [*ended, *_selected_on(space), _what_won(result, space), *_where_it_is(result, space, home)]
    log, uri = home.study(result.name).log, masked(home.tracking_uri)
    if not home.has_tracking_server:
        lines.append(f"look at it with: {shlex.join(['sweeps', 'ui', '--home', home.address])}")
    if result.page is not None:
        lines.append(f"its trials: {uri if home.has_tracking_server else UI}/{result.page}")
    if result.num_waiting:
        lines.append(
            f"{result.num_waiting} records wait for {uri}, see {log}; they are sent by: "
            f"{_command('resume', result.name, home)}"
        )
    lines.append(f"Ray's and MLflow's own messages are in {log}")
    return lines


def _selected_on(space: SearchSpace) -> list[str]:
    """A warning where trials were ranked on what should judge the best of them only."""
    if space.selection == "validation":
        return []
    return ["selected on the benchmark: what it says of the best trial is too good and no result"]


def _what_won(result: SweepResult, space: SearchSpace) -> str:
    best = next((row for row in result.rows if row.state == "complete"), None)
    if best is None:
        return "no trial completed"
    metric = space.objectives[0].metric
    won = f"trial {best.number} won with {metric} {best.metrics[metric]:.4f}"
    standing = best.standing
    if len(space.objectives) > 1:
        front = [row.number for row in best_rows(result.rows) if row.standing and row.standing.front == 0]
        won = f"Pareto front: trials {', '.join(map(str, front))}; by the first objective {won}"
    if standing is not None and standing.num_seeds > 1:
        kind = "confirming seeds" if standing.is_confirmed else "seeds"
        spread = f" ± {standing.spread[0]:.4f}" if standing.spread else ""
        won += f" (mean of its point over {standing.num_seeds} {kind}: {standing.mean[0]:.4f}{spread})"
    if metric in result.teacher:
        share = best.metrics[metric] / result.teacher[metric]
        won += f", {share:.3f} of the teacher's {result.teacher[metric]:.4f}"
    parameters = "efficiency/parameters"
    won += f", with {best.metrics[parameters]:,.0f} parameters"
    if parameters not in result.teacher:
        return won
    return f"{won} ({result.teacher[parameters] / best.metrics[parameters]:.1f} times fewer)"


def _where_it_is(result: SweepResult, space: SearchSpace, home: Home) -> list[str]:
    if result.interrupted:
        return [f"stopped before its end; go on with: {_command('resume', result.name, home)}"]
    if result.refusal:
        return [f"not promoted: {result.refusal}"]
    if space.promotion is None:
        return []
    if result.promotion is None:
        return [f"promote it with: {_command('promote', result.name, home)}"]
    promotion, accuracy = result.promotion, "benchmark/verification_accuracy"
    student, teacher = promotion.candidate.metrics[accuracy], promotion.candidate.teacher_metrics[accuracy]
    return [
        f"registered as {promotion.uri} (version {promotion.version}); on the benchmark it reaches "
        f"{student:.4f}, {student / teacher:.3f} of the teacher's {teacher:.4f}"
    ]


def _command(verb: str, name: str, home: Home) -> str:
    return shlex.join(["sweeps", verb, name, "--home", home.address])
