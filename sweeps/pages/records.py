"""What MLflow holds of a study, and where its report goes."""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from sweeps.curves import learning_curves
from sweeps.delivery import NOTE_TAG
from sweeps.home import Home, masked

ARTIFACT_PATH = "report"
SHOWN = {
    "report_history.png": "Optimisation history",
    "report_learning_curves.png": "Learning curves",
    "report_pareto_1.png": "Accuracy against size",
}
"""Pictures that the run's description shows, and what they are called there."""
_PICTURE = re.compile(r"\n*!\[[^]]*\]\(get-artifact[^)]*\)")


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """A sweep's parent run.

    Attributes:
        command: That began the sweep; None where it was not recorded, as the following.
        commit: Of the code.
        is_modified: Whether the code differed from the commit.
        versions: Of Python and packages, by name.
    """

    run_id: str
    command: str | None = None
    commit: str | None = None
    is_modified: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)


def find_record(home: Home, study: str) -> SweepRecord | None:
    """The record of a study's sweep; None where MLflow has none, or does not answer."""
    if (client := _client(home)) is None:
        return None
    try:
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            return None
        runs = client.search_runs(
            [experiment.experiment_id], filter_string="tags.kind = 'sweep'", max_results=1
        )
        if not runs:
            return None
        run_id, tags = runs[0].info.run_id, runs[0].data.tags
        return SweepRecord(
            run_id=run_id,
            command=tags.get("mlflow.source.name"),
            commit=tags.get("mlflow.source.git.commit"),
            is_modified=tags.get("uncommitted") == "true",
            versions=_versions(client, run_id),
        )
    except MlflowException:
        return None


def run_metrics(home: Home, run_id: str | None) -> dict[str, float]:
    """The last value of every metric of a run; nothing where MLflow has no such run."""
    if run_id is None or (client := _client(home)) is None:
        return {}
    try:
        return dict(client.get_run(run_id).data.metrics)
    except MlflowException:
        return {}


def curves_of(home: Home, run_id: str | None, names: Iterable[str]) -> dict[str, list[tuple[int, float]]]:
    """`learning_curves` of a trial; nothing where MLflow has no such run, or does not answer."""
    if run_id is None or _client(home) is None:
        return {}
    try:
        return learning_curves(home, run_id, names)
    except MlflowException:
        return {}


def log_report(client: MlflowClient, run_id: str, files: Iterable[Path]) -> None:
    """Logs a report's files to the run of its sweep.

    Raises:
        MlflowException: If the tracker does not take them.
    """
    for file in files:
        client.log_artifact(run_id, str(file), ARTIFACT_PATH)


def _show_pictures(client: MlflowClient, run_id: str, files: Iterable[Path]) -> None:
    """Puts the pictures that tell most below what the run's description says, in place of former ones."""
    shown = [file for file in files if file.name in SHOWN]
    said = client.get_run(run_id).data.tags.get(NOTE_TAG, "")
    table = _PICTURE.sub("", said).rstrip()
    addresses = (f"get-artifact?run_uuid={run_id}&path={ARTIFACT_PATH}/{file.name}" for file in shown)
    pictures = [f"![{SHOWN[file.name]}]({at})" for file, at in zip(shown, addresses, strict=True)]
    client.set_tag(run_id, NOTE_TAG, "\n\n".join([table, *pictures]))


def log_files(home: Home, record: SweepRecord | None, files: Sequence[Path]) -> str | None:
    """`log_report` to the parent run of a study.

    Returns:
        Why it was not done, as a clause; None where it was.
    """
    client = _client(home)
    if client is None or record is None:
        return f"{masked(home.tracking_uri)} has no run of this sweep, or does not answer"
    try:
        log_report(client, record.run_id, files)
        _show_pictures(client, record.run_id, files)
    except (MlflowException, OSError) as error:
        return f"{masked(home.tracking_uri)} does not take it: {str(error).strip().splitlines()[0]}"
    return None


def _client(home: Home) -> MlflowClient | None:
    """A client; None where there is no database yet, which MLflow would then make."""
    return None if home.missing_database else MlflowClient(tracking_uri=home.tracking_uri)


def _versions(client: MlflowClient, run_id: str) -> dict[str, str]:
    """What `environment.json` of a run says."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = client.download_artifacts(run_id, "environment.json", folder)
            return json.loads(Path(path).read_text())
    except (MlflowException, OSError, json.JSONDecodeError):
        return {}
