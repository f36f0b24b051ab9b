"""The `sweeps` command itself, and what its subcommands share."""

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
STORAGE = click.option(
    "--storage",
    metavar="URL",
    help="Where Optuna keeps studies: sqlite:///FILE, postgresql+psycopg://..., journal:///FILE. "
    "[default: $SWEEPS_STORAGE, else a database in the home]",
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Search for the best way to distil a face-recognition teacher into your student."""


def command(function: Callable[..., Any]) -> click.Command:
    """A command that ends as users expect, see `guarded`."""
    return main.command(name=function.__name__.rstrip("_"))(guarded(function))
