"""Commands about what is registered for production."""

import json

import click

from sweeps.cli.command import AS_JSON, HOME, TRACKING, command


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
