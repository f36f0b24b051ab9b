"""What MLflow holds of one trial: all that is needed to repeat it, without the home that it ran in."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import yaml
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from distill.checkpoint import CARD
from distill.config import TrialConfig
from distill.errors import InputError
from sweeps.delivery import PARENT_TAG, TRIAL_TAG
from sweeps.home import Home
from sweeps.space import ResourcesSettings

COMMIT_TAG, TEACHER_TAG = "mlflow.source.git.commit", "teacher_digest"
DIGEST_LENGTH = 36
"""Characters that MLflow keeps of a dataset's digest."""
ACCUMULATION_TAG = "accumulation."
"""Begins a tag that ends with an epoch: after it, batches are trained in that many times the portions."""
NOTING = ("attempt", "note", "mlflow.note")
"""How tags begin that tell how a trial was begun again, or what people noted of it."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One trial, as its run and its sweep's run tell of it.

    Attributes:
        config: Its settings, resolved.
        tags: Its sweep's, and its own over them.
        best: Metrics of its best epoch.
        datasets: Digests of its faces, by what they were for, as far as MLflow keeps them.
        teacher_digest: None where the record does not tell.
        environment: Versions of what decided its numbers.
        resources: What it occupied.
        scheduler: What decided who was stopped early.
        accumulations: How many times the config's portions each batch was trained in, by the epoch after
            which that began; nothing where memory sufficed.
    """

    run_id: str
    experiment_id: str
    config: TrialConfig
    tags: Mapping[str, str]
    best: Mapping[str, float]
    datasets: Mapping[str, str]
    teacher_digest: str | None
    environment: Mapping[str, str]
    resources: ResourcesSettings
    scheduler: str
    accumulations: Mapping[int, int]

    @property
    def commit(self) -> str | None:
        """The code that trained it."""
        return self.tags.get(COMMIT_TAG)


def read_record(home: Home, study: str, number: int) -> Record:
    """Reads what MLflow holds of a trial.

    Raises:
        InputError: If the tracker does not answer, has no such trial, or its record is damaged.
    """
    if (missing := home.missing_database) is not None:
        raise InputError(f"there is no record of trial {number} of {study}, since there is no {missing}")
    try:
        client = MlflowClient(tracking_uri=home.tracking_uri)
        run = _find(client, home, study, number)
        parent = client.get_run(run.data.tags[PARENT_TAG])
        config = TrialConfig.model_validate(_artifact(home, run, "config.json"))
        space = _artifact(home, parent, "space.yaml")
        environment = _artifact(home, parent, "environment.json")
        tags = {**parent.data.tags, **run.data.tags}
        return Record(
            run_id=run.info.run_id,
            experiment_id=run.info.experiment_id,
            config=config,
            tags=tags,
            best={
                name.removeprefix("best/"): value
                for name, value in run.data.metrics.items()
                if name.startswith("best/")
            },
            datasets=_datasets(run),
            teacher_digest=tags.get(TEACHER_TAG) or _digest_of_student(home, run),
            environment=environment,
            resources=ResourcesSettings.model_validate(space.get("resources", {})),
            scheduler=space.get("scheduler", {}).get("name", "none"),
            accumulations={
                int(name.removeprefix(ACCUMULATION_TAG)): int(times)
                for name, times in tags.items()
                if name.startswith(ACCUMULATION_TAG)
            },
        )
    except (MlflowException, OSError, KeyError, ValueError, ValidationError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the record of trial {number} of {study} in {home.tracking_uri} cannot be read: {_line(error)}"
        ) from error


def run_page(home: Home, experiment_id: str, run_id: str) -> str:
    """The address of a trial's page in MLflow; on a database, the one that `sweeps ui` would serve."""
    root = home.tracking_uri.rstrip("/") if home.has_tracking_server else "http://127.0.0.1:5000"
    return f"{root}/#/experiments/{experiment_id}/runs/{run_id}"


def notes(tags: Mapping[str, str]) -> dict[str, str]:
    """What a run's tags tell of how it was begun again, and of what people noted."""
    return {name: text for name, text in sorted(tags.items()) if name.startswith(NOTING)}


def _find(client: MlflowClient, home: Home, study: str, number: int) -> Run:
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        raise InputError(f"{home.tracking_uri} has no record of a study {study!r}")
    runs = client.search_runs(
        [experiment.experiment_id],
        filter_string=f"tags.`{TRIAL_TAG}` = '{number}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if not runs:
        raise InputError(f"{home.tracking_uri} has no record of trial {number} of study {study}")
    return runs[0]


def _artifact(home: Home, run: Run, name: str) -> Any:
    """A file of a run, in JSON or YAML."""
    with tempfile.TemporaryDirectory() as folder:
        # By its address: a client would remember for the life of the process where a run's files were.
        path = download_artifacts(
            artifact_uri=f"{run.info.artifact_uri}/{name}", dst_path=folder, tracking_uri=home.tracking_uri
        )
        text = Path(path).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


def _digest_of_student(home: Home, run: Run) -> str | None:
    """The teacher that the trial's student names, where the student was kept."""
    try:
        return _artifact(home, run, f"student/{CARD}")["teacher_digest"]
    except (MlflowException, OSError):
        return None


def _datasets(run: Run) -> dict[str, str]:
    """Digests of a run's faces, by what they were for."""
    if run.inputs is None:
        return {}
    return {
        tag.value: given.dataset.digest
        for given in run.inputs.dataset_inputs
        for tag in given.tags
        if tag.key == "mlflow.data.context"
    }


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
