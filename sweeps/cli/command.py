"""The `sweeps` command itself, and what its subcommands share."""

import functools
from collections.abc import Callable
from typing import Any

import click

from distill.cli import guarded

_PLACES = (
    click.option(
        "--home",
        metavar="DIR",
        help="Where studies live: a folder, or s3://BUCKET/PATH. [default: $SWEEPS_HOME, else ./runs]",
    ),
    click.option(
        "--tracking-uri",
        metavar="URI",
        help="MLflow's address. [default: $MLFLOW_TRACKING_URI, else a database in the home]",
    ),
    click.option(
        "--storage",
        metavar="URL",
        help="Where Optuna keeps studies: sqlite:///FILE, postgresql+psycopg://..., journal:///FILE. "
        "[default: $SWEEPS_STORAGE, else a database in the home]",
    ),
)
ADDRESS = click.option(
    "--address",
    metavar="A",
    envvar="RAY_ADDRESS",
    help="Of a Ray cluster. [default: $RAY_ADDRESS, else one is started here]",
)
JOB_ADDRESS = click.option(
    "--address", metavar="URL", help="Of a cluster's dashboard, http://HEAD:8265: its job is meant."
)
AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, and nothing else there."
)


def in_home(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say where studies and runs are kept, and hands on the `Home` that they name."""

    @functools.wraps(function)
    def call(*, home: str | None, tracking_uri: str | None, storage: str | None, **options: Any) -> Any:
        from sweeps.home import Home

        place = Home.at(home, tracking_uri, storage)
        named = [options.get("name"), options.get("taught_by"), *options.get("names", ())]
        place.fetch([name.partition(":")[0] for name in named if name])  # STUDY, or STUDY:TRIAL
        return function(home=place, **options)

    for option in reversed(_PLACES):
        option(call)
    return call


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Search for the best way to distil a face-recognition teacher into your student."""


def command(function: Callable[..., Any]) -> click.Command:
    """A command that ends as users expect, see `guarded`."""
    return main.command(name=function.__name__.rstrip("_"))(guarded(function))
