"""Commands that run sweeps, or say what running them would take."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from sweeps.cli.command import ADDRESS, AS_JSON, JOB_ADDRESS, command, in_home

if TYPE_CHECKING:
    from sweeps.home import Home

STOP_TIMEOUT_S = 30


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
@in_home
@ADDRESS
@AS_JSON
def run(
    space: str,
    name: str | None,
    trials: int | None,
    overrides: tuple[str, ...],
    taught_by: str | None,
    home: "Home",
    address: str | None,
    as_json: bool,
) -> None:
    """Runs the sweep that SPACE describes: a file, or the name of a packaged search space."""
    from sweeps.space import load_space

    values = assignments(overrides) | ({"search.num_trials": str(trials)} if trials else {})
    if taught_by is not None:
        from sweeps.chain import teacher_from

        values |= teacher_from(home, taught_by)
    loaded = load_space(space, overrides=values)

    def drive(display: Any) -> Any:
        from sweeps.sweep import run_sweep

        return run_sweep(loaded, home=home, name=name, address=address, display=display)

    _show(drive, loaded, home, as_json=as_json)


@command
@click.argument("name")
@in_home
@ADDRESS
@AS_JSON
def resume(
    name: str,
    home: "Home",
    address: str | None,
    as_json: bool,
) -> None:
    """Goes on with the study NAME where its last driver left it."""
    from sweeps.space import SearchSpace
    from sweeps.study import read_space

    space: SearchSpace = read_space(home, name)

    def drive(display: Any) -> Any:
        from sweeps.sweep import resume_sweep

        return resume_sweep(name, home=home, address=address, display=display)

    _show(drive, space, home, as_json=as_json)


@command
@click.argument("space")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="As for `sweeps run`.")
@in_home
@ADDRESS
@AS_JSON
def validate(
    space: str, overrides: tuple[str, ...], home: "Home", address: str | None, as_json: bool
) -> None:
    """Checks SPACE, every error at once, and prints what running it would take."""
    from sweeps.planning import plan as make_plan
    from sweeps.space import load_space

    loaded = load_space(space, overrides=assignments(overrides))
    plan = make_plan(loaded, address, home)
    click.echo(json.dumps(plan.as_dict(), indent=2) if as_json else str(plan))


@command
@in_home
@ADDRESS
@AS_JSON
def doctor(home: "Home", address: str | None, as_json: bool) -> None:
    """Runs the checks that precede every sweep, alone, and looks around on every node of the cluster."""
    from dataclasses import asdict

    from distill.errors import RefusedError
    from sweeps.preflight import diagnose

    checks = diagnose(home, address)
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            click.echo(f"{check.verdict:<6} {check.name:<14} {check.finding}")
    if wrong := [check.name for check in checks if not check.ok]:
        raise RefusedError(f"{len(wrong)} of {len(checks)} checks found something wrong: {', '.join(wrong)}")


@command
@click.argument("name")
@in_home
@JOB_ADDRESS
def stop(name: str, home: "Home", address: str | None) -> None:
    """Ends the sweep that drives the study NAME on this machine or as a cluster's job, as Ctrl-C would."""
    if address is not None:
        from sweeps.cli.cluster import stop_job

        stop_job(name, address)
        return
    from distill.errors import RefusedError
    from sweeps.study import load_study

    load_study(home, name)
    folder = home.study(name)
    if (driver := folder.read_driver()) is None:
        click.echo(f"nothing drives {name}")
        return
    if not driver.is_here:
        raise RefusedError(f"{name} is driven by {driver}: run `sweeps stop {name}` on {driver.host}")
    os.kill(driver.pid, signal.SIGINT)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while folder.read_driver_pid() is not None:
        if time.monotonic() > deadline:
            raise RefusedError(f"process {driver.pid} still drives {name} after {STOP_TIMEOUT_S} s")
        time.sleep(0.2)
    click.echo(f"stopped {name}; go on with `sweeps resume {name}`")


@command
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Say what would go, and leave it.")
@in_home
@AS_JSON
def gc(name: str, dry_run: bool, home: "Home", as_json: bool) -> None:
    """Removes what the study NAME left on disk and no record needs."""
    from sweeps.gc import collect, garbage

    found = garbage(home, name)
    if not dry_run:
        collect(found, home)
    entries = [{"path": str(g.path), "reason": g.reason, "bytes": g.num_bytes} for g in found]
    if as_json:
        click.echo(json.dumps({"removed": not dry_run, "found": entries}, indent=2))
        return
    for item in found:
        click.echo(f"{item.num_bytes / 2**20:10.1f} MiB  {item.path}  ({item.reason})")
    total = sum(item.num_bytes for item in found) / 2**20
    click.echo(f"{'would free' if dry_run else 'freed'} {total:.1f} MiB")


def assignments(texts: tuple[str, ...]) -> dict[str, str]:
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
