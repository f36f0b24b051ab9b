"""Commands that look at studies."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeps.cli.command import AS_JSON, JOB_ADDRESS, command, in_home

if TYPE_CHECKING:
    from sweeps.home import Home


@command
@in_home
@AS_JSON
def list_(home: "Home", as_json: bool) -> None:
    """Lists the studies of a home, oldest first."""
    from sweeps.study import summaries

    found = summaries(home)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    for entry in () if as_json else found:
        click.echo(f"{entry['study']:<32} {entry['state']:<9} {entry['trials']} trials")


@command
@click.argument("name")
@in_home
@JOB_ADDRESS
@AS_JSON
def status(name: str, home: "Home", address: str | None, as_json: bool) -> None:
    """Says how the study NAME stands, in a home or as a cluster's job."""
    if address is not None:
        from sweeps.cli.cluster import show_job

        show_job(name, address, as_json=as_json)
        return
    from sweeps.study import summary

    entry = summary(home, name)
    if as_json:
        click.echo(json.dumps(entry, indent=2))
        return
    for key, value in entry.items():
        click.echo(f"{key:<12} {value}")


@command
@click.argument("name")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)
@in_home
def leaderboard(name: str, form: str, home: "Home") -> None:
    """Ranks every trial of the study NAME."""
    from sweeps.report import leaderboard_text

    click.echo(leaderboard_text(home, name, form=form), nl=False)


@command
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where to. [default: report in the study's folder]",
)
@in_home
def report(name: str, out: Path | None, home: "Home") -> None:
    """Explains the study NAME on one page, with its pictures as PNG beside it."""
    from sweeps.pages import write_report

    written = write_report(home, name, folder=out)
    click.echo(f"wrote {written.page} and {len(written.pictures)} pictures")
    if written.not_logged:
        click.echo(f"not logged: {written.not_logged}", err=True)


@command
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@in_home
def ui(host: str, port: int, home: "Home") -> None:
    """Serves MLflow's pages on a home, until Ctrl-C."""
    from sweeps.tracking import serve

    serve(home, host=host, port=port)


@command
@click.argument("name")
@click.argument("trial", type=click.IntRange(min=0))
@in_home
@AS_JSON
def show(name: str, trial: int, home: "Home", as_json: bool) -> None:
    """Explains TRIAL of the study NAME: what sets it apart, how it went, where it is."""
    from sweeps.show import as_text, look_at

    view = look_at(home, name, trial)
    if as_json:
        click.echo(json.dumps(view.document(), indent=2))
    else:
        _print(lambda **terminal: as_text(view, **terminal))


@command
@click.argument("names", nargs=-1, required=True, metavar="A B [...]")
@click.option(
    "--benchmark", is_flag=True, help="Measure on the benchmark, which is then not unseen any more."
)
@in_home
@AS_JSON
def compare(names: tuple[str, ...], benchmark: bool, home: "Home", as_json: bool) -> None:
    """Compares trials with the first of them, and says which differences are real.

    Each is STUDY:TRIAL, STUDY for its best trial, or `teacher` for the teacher of the first trial.
    """
    from sweeps.compare import as_text
    from sweeps.compare import compare as run

    comparison = run(home, names, of="benchmark" if benchmark else "validation")
    if as_json:
        click.echo(json.dumps(comparison.document(), indent=2))
    else:
        _print(lambda **terminal: as_text(comparison, **terminal))


@command
@click.argument("name")
@click.argument("trial", type=click.IntRange(min=0))
@click.option("--anyway", is_flag=True, help="Go on where teacher or faces are not those of the record.")
@in_home
@AS_JSON
def rerun(name: str, trial: int, anyway: bool, home: "Home", as_json: bool) -> None:
    """Repeats TRIAL of the study NAME from its record in MLflow, and says whether the numbers agree.

    Exit code 0: they do. 3: they do not, or it cannot be repeated.
    """
    from sweeps.rerun import as_lines
    from sweeps.rerun import rerun as repeat

    done = repeat(home, name, trial, anyway=anyway)
    click.echo(json.dumps(done.document(), indent=2) if as_json else "\n".join(as_lines(done)))
    if not done.agrees:
        sys.exit(3)


def _print(make: Callable[..., Any]) -> None:
    """Prints what is made for this terminal's width and symbols; lines that a person copies stay whole."""
    from rich.console import Console

    width = shutil.get_terminal_size((120, 40)).columns
    console = Console(width=width, highlight=False, markup=False)
    made = make(width=width, symbols=console.encoding.lower().startswith("utf"))
    console.print(made, soft_wrap=True)
