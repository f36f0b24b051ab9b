"""Commands that look at studies."""

import json
import sys

import click

from sweeps.cli.command import AS_JSON, HOME, TRACKING, command


@command
@HOME
@AS_JSON
def list_(home: str | None, as_json: bool) -> None:
    """Lists the studies of a home, oldest first."""
    from sweeps.home import Home
    from sweeps.study import summaries

    found = summaries(Home.at(home))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    for entry in () if as_json else found:
        click.echo(f"{entry['study']:<32} {entry['state']:<9} {entry['trials']} trials")


@command
@click.argument("name")
@HOME
@AS_JSON
def status(name: str, home: str | None, as_json: bool) -> None:
    """Says how the study NAME stands."""
    from sweeps.home import Home
    from sweeps.study import summary

    entry = summary(Home.at(home), name)
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
@HOME
def leaderboard(name: str, form: str, home: str | None) -> None:
    """Ranks every trial of the study NAME."""
    from sweeps.home import Home
    from sweeps.report import leaderboard_text

    click.echo(leaderboard_text(Home.at(home), name, form=form), nl=False)


@command
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@HOME
@TRACKING
def ui(host: str, port: int, home: str | None, tracking_uri: str | None) -> None:
    """Serves MLflow's pages on a home, until Ctrl-C."""
    from sweeps.home import Home
    from sweeps.tracking import serve

    serve(Home.at(home, tracking_uri), host=host, port=port)


@command
@click.argument("name")
@click.argument("trial", type=click.IntRange(min=0))
@click.option("--anyway", is_flag=True, help="Go on where teacher or faces are not those of the record.")
@HOME
@TRACKING
@AS_JSON
def rerun(
    name: str, trial: int, anyway: bool, home: str | None, tracking_uri: str | None, as_json: bool
) -> None:
    """Repeats TRIAL of the study NAME from its record in MLflow, and says whether the numbers agree.

    Exit code 0: they do. 3: they do not, or it cannot be repeated.
    """
    from sweeps.home import Home
    from sweeps.rerun import as_lines
    from sweeps.rerun import rerun as repeat

    done = repeat(Home.at(home, tracking_uri), name, trial, anyway=anyway)
    click.echo(json.dumps(done.document(), indent=2) if as_json else "\n".join(as_lines(done)))
    if not done.agrees:
        sys.exit(3)
