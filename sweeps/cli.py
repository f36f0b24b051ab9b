"""The `sweeps` command: parse, call, print. No logic.

Heavy imports wait inside the commands, so that `--help` answers at once.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from distill.cli import guarded

HOME = click.option("--home", metavar="DIR", help="Where studies live. [default: $SWEEPS_HOME, else ./runs]")
TRACKING = click.option(
    "--tracking-uri",
    metavar="URI",
    help="MLflow's address. [default: $MLFLOW_TRACKING_URI, else a database in the home]",
)
ADDRESS = click.option(
    "--address",
    metavar="A",
    envvar="RAY_ADDRESS",
    help="Of a Ray cluster. [default: $RAY_ADDRESS, else one is started here]",
)
AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, and nothing else there."
)

STOP_TIMEOUT_S = 30


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Search for the best way to distil a face-recognition teacher into your student."""


def command(function: Callable[..., Any]) -> click.Command:
    """A command that ends as users expect, see `guarded`."""
    return main.command(name=function.__name__.rstrip("_"))(guarded(function))


@command
@click.argument("space")
@click.option("--name", help="Of the study. [default: the space's name, numbered where that is taken]")
@click.option("--trials", type=click.IntRange(min=1), help="How many; the same as --set search.num_trials=K.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=C",
    help="Overrides a key of the space or fixes a setting of its trials.",
)
@click.option("--teacher-from", "taught_by", metavar="STUDY", help="Its best student is the teacher.")
@HOME
@TRACKING
@ADDRESS
@AS_JSON
def run(
    space: str,
    name: str | None,
    trials: int | None,
    overrides: tuple[str, ...],
    taught_by: str | None,
    home: str | None,
    tracking_uri: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Runs the sweep that SPACE describes: a file, or the name of a packaged search space."""
    from sweeps.home import Home
    from sweeps.space import load_space

    place = Home.at(home, tracking_uri)
    values = _assignments(overrides) | ({"search.num_trials": str(trials)} if trials else {})
    if taught_by is not None:
        from sweeps.chain import teacher_from

        values |= teacher_from(place, taught_by)
    loaded = load_space(space, overrides=values)

    def drive(display: Any) -> Any:
        from sweeps.sweep import run_sweep

        return run_sweep(loaded, home=place, name=name, address=address, display=display)

    _show(drive, loaded, place, as_json=as_json)


@command
@click.argument("name")
@HOME
@TRACKING
@ADDRESS
@AS_JSON
def resume(name: str, home: str | None, tracking_uri: str | None, address: str | None, as_json: bool) -> None:
    """Goes on with the study NAME where its last driver left it."""
    from sweeps.home import Home
    from sweeps.space import SearchSpace
    from sweeps.study import read_space

    place = Home.at(home, tracking_uri)
    space: SearchSpace = read_space(place, name)

    def drive(display: Any) -> Any:
        from sweeps.sweep import resume_sweep

        return resume_sweep(name, home=place, address=address, display=display)

    _show(drive, space, place, as_json=as_json)


@command
@click.argument("space")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="As for `sweeps run`.")
@ADDRESS
@AS_JSON
def validate(space: str, overrides: tuple[str, ...], address: str | None, as_json: bool) -> None:
    """Checks SPACE, every error at once, and prints what running it would take."""
    from sweeps.space import load_space

    loaded = load_space(space, overrides=_assignments(overrides))
    plan = _plan(loaded, address)
    click.echo(
        json.dumps(plan, indent=2)
        if as_json
        else "\n".join(f"{key:<16} {value}" for key, value in plan.items())
    )


@command
@HOME
@TRACKING
@ADDRESS
@AS_JSON
def doctor(home: str | None, tracking_uri: str | None, address: str | None, as_json: bool) -> None:
    """Runs the checks that precede every sweep, alone."""
    from distill.errors import RefusedError
    from sweeps.home import Home
    from sweeps.sweep import diagnose

    checks = diagnose(Home.at(home, tracking_uri), address)
    if as_json:
        click.echo(json.dumps([{"name": c.name, "ok": c.ok, "finding": c.finding} for c in checks], indent=2))
    else:
        for check in checks:
            click.echo(f"{'ok' if check.ok else 'WRONG':<6} {check.name:<14} {check.finding}")
    if not all(check.ok for check in checks):
        raise RefusedError("a sweep would be refused here")


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
@HOME
def stop(name: str, home: str | None) -> None:
    """Ends the sweep that drives the study NAME on this machine, as Ctrl-C would."""
    from distill.errors import RefusedError
    from sweeps.home import Home
    from sweeps.study import load_study

    place = Home.at(home)
    load_study(place, name)
    folder = place.study(name)
    if (pid := folder.read_driver_pid()) is None:
        click.echo(f"nothing drives {name}")
        return
    os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while folder.read_driver_pid() is not None:
        if time.monotonic() > deadline:
            raise RefusedError(f"process {pid} still drives {name} after {STOP_TIMEOUT_S} s")
        time.sleep(0.2)
    click.echo(f"stopped {name}; go on with `sweeps resume {name}`")


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
@click.argument("name")
@click.option("--trial", type=click.IntRange(min=0), help="Number of the trial. [default: the best]")
@click.option(
    "--alias", help="What shall point to it. [default: the space's, which is champion unless it says so]"
)
@HOME
@TRACKING
@AS_JSON
def promote(
    name: str, trial: int | None, alias: str | None, home: str | None, tracking_uri: str | None, as_json: bool
) -> None:
    """Measures the best student of the study NAME on the benchmark and registers it if its gates let it."""
    from sweeps.home import Home
    from sweeps.promotion import promote as run_promotion

    place = Home.at(home, tracking_uri)
    promotion = run_promotion(place, name, trial=trial, alias=alias)
    if as_json:
        click.echo(json.dumps(promotion.document(), indent=2))
        return
    for verdict in promotion.verdicts:
        click.echo(str(verdict))
    click.echo(
        f"trial {promotion.candidate.row.number} of {name} is {promotion.uri}, version {promotion.version}"
    )


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


def _assignments(texts: tuple[str, ...]) -> dict[str, str]:
    """`a.b=c` each, as names and values."""
    from distill.errors import InputError

    for text in texts:
        if "=" not in text.strip("="):
            raise InputError(f"--set must be A.B=C, got {text!r}")
    return {name.strip(): value.strip() for name, _, value in (text.partition("=") for text in texts)}


def _show(drive: Callable[[Any], Any], space: Any, home: Any, *, as_json: bool) -> None:
    """Runs a sweep under a display and ends with the exit code that it deserves."""
    from sweeps.report import conclude
    from sweeps.terminal import sweep_display

    with sweep_display(space, as_json=as_json) as display:
        result = drive(display)
        conclude(result, space, home, display, as_json=as_json)
    if result.interrupted:
        sys.exit(130)
    if result.refusal:
        sys.exit(3)
    if any(row.state == "failed" for row in result.rows):
        sys.exit(4)


def _plan(space: Any, address: str | None) -> dict[str, Any]:
    """What a sweep would take, as far as it is known before it runs."""
    from sweeps.sweep import plan

    return plan(space, address)
