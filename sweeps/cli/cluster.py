"""Commands about sweeps that run on a cluster as jobs, while one sits elsewhere."""

import json
import sys
from typing import TYPE_CHECKING

import click

from sweeps.cli.command import command
from sweeps.cli.driving import assignments

if TYPE_CHECKING:
    from sweeps.jobs import Jobs

DASHBOARD = click.option(
    "--address", metavar="URL", required=True, help="Of the cluster's dashboard: http://HEAD:8265."
)


@command
@click.argument("space", required=False)
@click.option("--resume", "study", metavar="NAME", help="Goes on with a study instead of beginning one.")
@click.option("--name", help="Of the study. [default: the space's name, numbered where the cluster knows it]")
@click.option("--trials", type=click.IntRange(min=1), help="As for `sweeps run`.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="As for `sweeps run`.")
@DASHBOARD
@click.option(
    "--home",
    metavar="DIR",
    help="Where studies live, as the nodes see it: a folder, or s3://BUCKET/PATH. "
    "[default: their $SWEEPS_HOME]",
)
@click.option(
    "--tracking-uri",
    metavar="URI",
    help="MLflow's address, as the nodes see it. [default: their $MLFLOW_TRACKING_URI]",
)
@click.option(
    "--follow/--no-follow", default=True, show_default=True, help="Prints the job's log until it ends."
)
def submit(
    space: str | None,
    study: str | None,
    name: str | None,
    trials: int | None,
    overrides: tuple[str, ...],
    address: str,
    home: str | None,
    tracking_uri: str | None,
    follow: bool,
) -> None:
    """Runs the sweep that SPACE describes as a job of a cluster, with the code that runs here."""
    from sweeps.jobs import MIB, Jobs
    from sweeps.submission import Submission, check_space

    if (space is None) == (study is None):
        raise click.UsageError("give either SPACE or --resume NAME")
    if space is not None:
        values = assignments(overrides) | ({"search.num_trials": str(trials)} if trials else {})
        checked = check_space(space, overrides=values)
        for sentence in checked.unchecked:
            click.echo(f"the cluster will check what is not here: {sentence}", err=True)
        jobs = Jobs(address)
        submission = Submission(
            study=name or jobs.free_name(checked.name),
            space_yaml=checked.yaml,
            home=home,
            tracking_uri=tracking_uri,
        )
    else:
        assert study is not None
        jobs = Jobs(address)
        submission = jobs.resumption(study, home=home, tracking_uri=tracking_uri)
    sent = jobs.submit(submission)
    click.echo(f"job {sent.job_id} of study {submission.study}, with {sent.num_bytes / MIB:.1f} MiB of code")
    _say_how_to_go_on(jobs, submission.study)
    if follow:
        _follow(jobs, submission.study, sent.job_id)


@command
@click.argument("name")
@DASHBOARD
@click.option("--follow/--no-follow", default=False, show_default=True, help="Until the job ends.")
def logs(name: str, address: str, follow: bool) -> None:
    """Prints what the job of the study NAME printed on a cluster."""
    from sweeps.jobs import Jobs

    jobs = Jobs(address)
    job = jobs.latest(name)
    if follow:
        _follow(jobs, name, job.submission_id or "")
    click.echo(jobs.log(job), nl=False)


def show_job(name: str, address: str, *, as_json: bool) -> None:
    """`sweeps status` of a job."""
    from sweeps.jobs import Jobs

    document = Jobs(address).standing(name).document()
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    for key, value in document.items():
        click.echo(f"{key.replace('_', ' '):<12} {'' if value is None else value}")


def stop_job(name: str, address: str) -> None:
    """`sweeps stop` of a job."""
    from sweeps.jobs import Jobs

    jobs = Jobs(address)
    job = jobs.stop(name)
    click.echo(
        f"job {job.submission_id} is {job.status.value.lower()}; go on with `{jobs.command('resume', name)}`"
    )


def _follow(jobs: "Jobs", study: str, job_id: str) -> None:
    from sweeps.jobs import exit_code

    try:
        job = jobs.follow(job_id, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        click.echo("\nno longer followed; the sweep goes on", err=True)
        _say_how_to_go_on(jobs, study)
        sys.exit(130)
    if job.driver_exit_code is None:
        click.echo(f"job {job_id} is {job.status.value.lower()}: {job.message}", err=True)
    sys.exit(exit_code(job))


def _say_how_to_go_on(jobs: "Jobs", study: str) -> None:
    for what, words in {
        "follow": ("logs", "--follow"),
        "look": ("status",),
        "end": ("stop",),
        "go on": ("resume",),
    }.items():
        click.echo(f"{what:<10} {jobs.command(words[0], study, *words[1:])}", err=True)
