"""What MLflow holds of a sweep. The only place, with `promotion`, that speaks to it.

One experiment a study, one parent run a sweep, one child run a trial. Everything about trials is written
by one thread beside Ray Tune's loop: a slow or absent tracker delays its own records, never a trial.
"""

import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from distill.errors import RefusedError
from sweeps.checks import Check
from sweeps.home import Home
from sweeps.provenance import Provenance

PARENT_TAG = "mlflow.parentRunId"
STUDY_TAG, TRIAL_TAG, STATE_TAG, REASON_TAG = "study", "trial", "state", "reason"
RETRY_S = 2.0
FLUSH_S = 60.0

# How a trial's end reads in MLflow. A pruned trial was stopped on purpose: killed, not failed.
STATUS = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "infeasible": "KILLED",
    "failed": "FAILED",
    "interrupted": "FAILED",
}


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """Faces that a trial used: a name, a digest of what decides every pixel, and whether they are drawn."""

    name: str
    digest: str
    context: str
    source: str
    is_drawn: bool


def check_tracker(home: Home) -> Check:
    """Whether MLflow answers. Its database is created here on first use.

    Once, by the driver, before any trial: several processes at it would ruin the database.
    """
    try:
        MlflowClient(tracking_uri=home.tracking_uri).search_experiments(max_results=1)
    except Exception as error:  # whatever a store or a server raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Check(
            name="tracker",
            ok=False,
            finding=f"MLflow at {home.tracking_uri} does not answer ({reason}): "
            "choose another with --tracking-uri",
        )
    return Check(name="tracker", ok=True, finding=f"MLflow answers at {home.tracking_uri}")


def serve(home: Home, *, host: str, port: int) -> None:
    """Serves MLflow's pages on a home, in place of this process.

    Raises:
        RefusedError: If the port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RefusedError(
                f"{host}:{port} cannot be served on ({error.strerror}): choose another with --port"
            ) from None
    arguments = ["--backend-store-uri", home.tracking_uri, "--default-artifact-root", str(home.artifacts)]
    command = [sys.executable, "-m", "mlflow", "server", *arguments, "--host", host, "--port", str(port)]
    print(f"serving {home.tracking_uri} at http://{host}:{port} (Ctrl-C ends it)", flush=True)
    os.execv(sys.executable, command)


class Tracker:
    """Records one sweep. Methods about trials return at once; their records follow in order."""

    def __init__(self, home: Home, *, study: str, on_run: Callable[[int, str], None]):
        """Opens the tracker of a study.

        Args:
            on_run: Told each trial's number and run id, once the run exists. Called from the writing thread.
        """
        self._client = MlflowClient(tracking_uri=home.tracking_uri)
        self._home = home
        self._study = study
        self._on_run = on_run
        self._runs: dict[int, str] = {}
        self._parent: str | None = None
        self._experiment: str | None = None
        self._tasks: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._write, name="tracker", daemon=True)
        self._thread.start()

    @property
    def parent_run_id(self) -> str:
        """The sweep's run."""
        assert self._parent is not None, "the sweep has no run yet"
        return self._parent

    @property
    def experiment_id(self) -> str:
        """The study's experiment."""
        assert self._experiment is not None, "the study has no experiment yet"
        return self._experiment

    def start_sweep(self, *, space_yaml: str, params: Mapping[str, Any], provenance: Provenance) -> None:
        """Opens the parent run: the one that this study has already, or a new one."""
        self._experiment = self._experiment_id()
        if parent := self._find_parent():
            self._parent = parent
            self._client.update_run(parent, status="RUNNING")
            return
        run = self._client.create_run(
            self._experiment,
            run_name=self._study,
            tags={STUDY_TAG: self._study, "kind": "sweep", **provenance.tags()},
        )
        self._parent = run.info.run_id
        self._client.log_batch(self._parent, params=_params(params))
        self._client.log_text(self._parent, space_yaml, "space.yaml")
        self._client.log_dict(self._parent, provenance.environment(), "environment.json")
        if provenance.difference:
            self._client.log_text(self._parent, provenance.difference, "uncommitted.diff")

    def start_trial(
        self,
        number: int,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Callable[[], Iterable[DatasetRecord]],
        config_json: str,
    ) -> None:
        """Opens a trial's child run, with every parameter under its dotted name.

        Args:
            datasets: Makes the records of its faces. The writing thread calls it, since it may render them.
        """
        began = _now_ms()
        entries = _params(params)

        def write() -> None:
            run_id = self._runs.get(number) or self._create_child(number, name, tags, began)
            self._client.log_batch(run_id, params=entries)
            self._client.log_inputs(run_id, datasets=[_dataset_input(dataset) for dataset in datasets()])
            self._client.log_text(run_id, config_json, "config.json")

        self._tasks.put(write)

    def log_epoch(self, number: int, *, epoch: int, metrics: Mapping[str, float]) -> None:
        """Records one epoch's metrics, all in one call."""
        now = _now_ms()
        entries = [Metric(name, value, now, epoch) for name, value in metrics.items()]
        self._tasks.put(lambda: self._client.log_batch(self._runs[number], metrics=entries))

    def finish_trial(
        self,
        number: int,
        *,
        state: str,
        reason: str | None = None,
        best: Mapping[str, float],
    ) -> None:
        """Closes a trial's child run.

        Args:
            best: The metrics of its best epoch, recorded under `best/`.
        """
        ended = _now_ms()

        def write() -> None:
            run_id = self._runs[number]
            tags = [RunTag(STATE_TAG, state)] + ([RunTag(REASON_TAG, reason[:5000])] if reason else [])
            metrics = [Metric(f"best/{name}", value, ended, 0) for name, value in best.items()]
            self._client.log_batch(run_id, metrics=metrics, tags=tags)
            self._client.set_terminated(run_id, status=STATUS[state], end_time=ended)

        self._tasks.put(write)

    def log_student(self, number: int, folder: Path) -> None:
        """Keeps a trial's best student, from its folder, as the artifact `student` of its run."""
        self._tasks.put(lambda: self._client.log_artifacts(self._runs[number], str(folder), "student"))

    def finish_sweep(self, *, status: str, metrics: Mapping[str, float], leaderboard_csv: str) -> None:
        """Closes the parent run, with the whole leaderboard beside it."""
        run_id = self.parent_run_id

        def write() -> None:
            now = _now_ms()
            self._client.log_batch(
                run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()]
            )
            self._client.log_text(run_id, leaderboard_csv, "leaderboard.csv")
            self._client.set_terminated(run_id, status=status)

        self._tasks.put(write)

    def adopt_children(self) -> dict[int, Run]:
        """The child runs that earlier drivers opened, by trial number, taken over by this one."""
        found: dict[int, Run] = {}
        token = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id],
                filter_string=f"tags.`{PARENT_TAG}` = '{self.parent_run_id}'",
                page_token=token,
            )
            found |= {int(run.data.tags[TRIAL_TAG]): run for run in page}
            if not (token := page.token):
                self._runs |= {number: run.info.run_id for number, run in found.items()}
                return found

    def close(self) -> bool:
        """Writes what is left, for a minute at most. False if some of it could not be written."""
        self._tasks.put(None)
        self._thread.join(timeout=FLUSH_S)
        self._abandoned.set()
        return not self._thread.is_alive()

    def _write(self) -> None:
        """The writing thread: one task after the other, each until it succeeds."""
        while (task := self._tasks.get()) is not None:
            while not self._abandoned.is_set():
                try:
                    task()
                    break
                except (MlflowException, OSError) as error:
                    print(
                        f"the tracker {self._home.tracking_uri} did not take a record, trying again: {error}"
                    )
                    self._abandoned.wait(RETRY_S)

    def _create_child(self, number: int, name: str, tags: Mapping[str, str], began: int) -> str:
        run = self._client.create_run(
            self.experiment_id,
            run_name=name,
            start_time=began,
            tags={
                PARENT_TAG: self.parent_run_id,
                STUDY_TAG: self._study,
                TRIAL_TAG: str(number),
                STATE_TAG: "running",
                **tags,
            },
        )
        self._runs[number] = run.info.run_id
        self._on_run(number, run.info.run_id)
        return run.info.run_id

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._study)
        if found is not None:
            return found.experiment_id
        location = None if self._home.has_tracking_server else str(self._home.artifacts / self._study)
        return self._client.create_experiment(self._study, artifact_location=location)

    def _find_parent(self) -> str | None:
        runs = self._client.search_runs(
            [self.experiment_id], filter_string="tags.kind = 'sweep'", max_results=1
        )
        return runs[0].info.run_id if runs else None


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names; what is unset is left out."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = value
    return flat


def _params(params: Mapping[str, Any]) -> list[Param]:
    return [Param(name, str(value)) for name, value in params.items()]


def _dataset_input(record: DatasetRecord) -> DatasetInput:
    dataset = Dataset(
        name=record.name,
        digest=record.digest[:36],
        source_type="generator" if record.is_drawn else "files",
        source=record.source,
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", record.context)])


def _now_ms() -> int:
    return int(time.time() * 1000)
