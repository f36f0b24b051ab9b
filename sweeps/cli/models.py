"""Commands about what is registered for production."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from sweeps.cli.command import AS_JSON, command, in_home

if TYPE_CHECKING:
    from sweeps.home import Home


@command
@click.argument("name")
@click.option("--trial", type=click.IntRange(min=0), help="Number of the trial. [default: the best]")
@click.option(
    "--choose",
    metavar="RULE",
    help="Which of the trials that no other surpasses: knee or {best: METRIC, within: [LIMIT, ...]}. "
    "[default: the space's]",
)
@click.option(
    "--gate",
    "gates",
    multiple=True,
    metavar="GATE",
    help="A further gate, like 'benchmark/eer <= 0.1', or as a space has it. May be given several times.",
)
@click.option(
    "--alias", help="What shall point to it. [default: the space's, which is champion unless it says so]"
)
@click.option("--why", default="", metavar="TEXT", help="The reason, which is kept with the version.")
@click.option("--to", metavar="URI", help="Address of another MLflow server, to register it there instead.")
@click.option("--dry-run", is_flag=True, help="Print what the gates say, and change nothing.")
@in_home
@AS_JSON
def promote(
    name: str,
    trial: int | None,
    choose: str | None,
    gates: tuple[str, ...],
    alias: str | None,
    why: str,
    to: str | None,
    dry_run: bool,
    home: "Home",
    as_json: bool,
) -> None:
    """Measures the best student of the study NAME on the benchmark and registers it if its gates let it."""
    from sweeps.promotion import proposed
    from sweeps.promotion.tables import gate_table

    with proposed(home, name, trial=trial, alias=alias, gates=gates, choose=choose, to=to) as proposal:
        if not as_json:
            click.echo(f"trial {proposal.candidate.row.number} of {name}, {proposal.candidate.chosen}")
            click.echo(gate_table(proposal.verdicts) if proposal.verdicts else "no gate is set")
        if dry_run:
            _show(proposal.document(), as_json=as_json)
            sys.exit(0 if proposal.passed else 3)
        promotion = proposal.promote(why=why)
    where = f" at {promotion.registry_uri}" if to else ""
    _show(
        promotion.document(),
        as_json=as_json,
        sentence=f"trial {promotion.candidate.row.number} of {name} is {promotion.uri}, "
        f"version {promotion.version}{where}",
    )


@command
@click.argument("model")
@click.option("--alias", default="champion", show_default=True, help="What shall point to a former version.")
@click.option("--to", metavar="VERSION", help="To this version. [default: the one that had the alias before]")
@click.option(
    "--why", default="", metavar="TEXT", help="The reason, which is kept with the version that is left."
)
@in_home
@AS_JSON
def rollback(
    model: str,
    alias: str,
    to: str | None,
    why: str,
    home: "Home",
    as_json: bool,
) -> None:
    """Gives the alias of MODEL back to the version that had it before."""
    import dataclasses

    from sweeps.registry import Registry

    moved = Registry.of(home).roll_back(model, alias=alias, to=to, why=why)
    _show(dataclasses.asdict(moved), as_json=as_json, sentence=str(moved))


@command
@click.argument("model", required=False)
@in_home
@AS_JSON
def models(model: str | None, home: "Home", as_json: bool) -> None:
    """Lists what is registered, every version of MODEL or of all models, the newest first."""
    from sweeps.promotion.tables import version_table
    from sweeps.registry import Registry

    found = Registry.of(home).versions(model)
    sentence = version_table(found) if found else "no model is registered yet"
    _show([version.document() for version in found], as_json=as_json, sentence=sentence)


def _show(document: Any, *, as_json: bool, sentence: str = "") -> None:
    """Prints the one or the other."""
    if as_json or sentence:
        click.echo(json.dumps(document, indent=2) if as_json else sentence)
