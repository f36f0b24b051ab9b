"""Records into MLflow, each once however often it is tried.

MLflow names a run itself, so a request to make one may get through while its answer is lost. Where that may
have happened, runs are looked for by their tags before one is made, and doubles are deleted. All else that a
record holds is the same when it is written twice: MLflow keeps a metric once by name, step, time and value.

A server that asks for a password hashes it at every request, which takes longer than all that it writes. So
requests are few: what waits for one run is written together.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import requests
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from sweeps.home import Home
from sweeps.outbox import DatasetRecord, Record

PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
KIND_TAG, SWEEP_TAG, TRIAL_TAG = "kind", "sweep_id", "trial"
MAX_TAG = 8_000
"""Characters that MLflow keeps of a tag's value."""

_BRIEF = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_PASSING = (401, 403, 408, 429)
"""Refusals that somebody can mend while a sweep runs."""


class UnknownRunError(LookupError):
    """A record is about a run that was never made, or was deleted."""


@contextmanager
def brief_requests() -> Iterator[None]:
    """Lets MLflow's client try once and not for minutes.

    A request to make a run that the client itself repeats could make two.
    """
    former = {name: os.environ.get(name) for name in _BRIEF}
    os.environ.update(_BRIEF)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def is_refused_for_good(error: Exception) -> bool:
    """Whether MLflow understood a record and will never take it, as against being down, busy or locked."""
    if isinstance(error, UnknownRunError):
        return True
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
    elif isinstance(error, MlflowException):
        if isinstance(error.__cause__, SQLAlchemyError):
            return isinstance(error.__cause__, (IntegrityError, DataError))
        if "failed with error code" in str(error):  # a page of a proxy's, and not MLflow's own answer
            return False
        status = error.get_http_status_code()
    else:
        return False
    return 400 <= status < 500 and status not in _PASSING


class Delivery:
    """Writes one study's records, in order, to one tracker."""

    def __init__(self, home: Home, *, study: str, sweep_run: str | None, on_run: Callable[[int, str], None]):
        """Prepares to write; nothing is asked of the tracker yet.

        Args:
            sweep_run: The id of the sweep's run, where an earlier driver had it made.
            on_run: Told each trial's number and run id, at least once, before its first record is done.
        """
        self._home = home
        self._study = study
        self._on_run = on_run
        self._opened: MlflowClient | None = None
        self._experiment: str | None = None
        self._sweep_id: str | None = None
        self._trials: dict[int, str] = {}
        self._in_doubt = True  # an earlier driver, or a request without an answer, may have made runs
        self._doubtful: set[int] = set()  # trials whose run may come a second time
        self._made_before: dict[int, str] = {}
        self.sweep_run = sweep_run

    @property
    def experiment_id(self) -> str | None:
        """The study's experiment; None until the tracker has it."""
        return self._experiment

    @property
    def _client(self) -> MlflowClient:
        if self._opened is None:
            self._opened = MlflowClient(tracking_uri=self._home.tracking_uri)
        return self._opened

    def knows_sweep(self) -> bool:
        """Whether this tracker is the one that has the sweep's run."""
        if self.sweep_run is None:
            return False
        try:
            self._use_sweep(self._client.get_run(self.sweep_run))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self.sweep_run = None
            return False
        return True

    def deliver(self, records: Sequence[Record]) -> None:
        """Writes records of one run, in their order.

        Raises:
            UnknownRunError: If they are about a run that is not there.
            MlflowException, OSError: If the tracker did not take them. What of them was written may be
                written again.
        """
        first = records[0]
        if first.opens is not None and first.run is None:
            self._open_sweep(first)
        run_id = self._run_id(first)
        tags: dict[str, str] = {}
        for record in records:
            tags |= {name: self._tag(value) for name, value in record.tags.items()}
            if record.folder is not None:
                if Path(record.folder).is_dir():
                    self._client.log_artifacts(run_id, record.folder, record.folder_as or None)
                else:
                    gone = f"{record.folder} was gone before it could be kept"
                    tags[f"missing.{record.folder_as}"] = gone
        metrics = [
            Metric(name, value, record.at, record.step)
            for record in records
            for name, value in record.metrics.items()
        ]
        params = {name: value for record in records for name, value in record.params.items()}
        if params or metrics or tags:
            self._client.log_batch(
                run_id,
                metrics=metrics,
                params=[Param(key, value) for key, value in params.items()],
                tags=[RunTag(key, value) for key, value in tags.items()],
            )
        if datasets := [_dataset_input(entry) for record in records for entry in record.datasets or ()]:
            self._client.log_inputs(run_id, datasets=datasets)
        if texts := {path: text for record in records for path, text in record.texts.items()}:
            self._log_texts(run_id, texts)
        for record in records:
            self._set_status(run_id, record)

    def _log_texts(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Keeps texts as files, by their paths: together, since each time the run is looked up first."""
        with tempfile.TemporaryDirectory() as folder:
            for path, text in texts.items():
                file = Path(folder) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            self._client.log_artifacts(run_id, folder)

    def _set_status(self, run_id: str, record: Record) -> None:
        if record.status == "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        elif record.status is not None:
            self._client.set_terminated(run_id, status=record.status, end_time=record.at)
            if record.run is None or record.run in self._doubtful:
                self._find(record.run)  # deletes a double that arrived late

    def _run_id(self, record: Record) -> str:
        if record.run is None:
            if self.sweep_run is None:
                raise UnknownRunError(f"the tracker has no run of sweep {self._study}")
            return self.sweep_run
        if record.run not in self._trials:
            run_id = self._run_made_before(record.run)
            if run_id is None and record.opens is not None:
                self._in_doubt = True
                run_id = self._create(record, {PARENT_TAG: self.sweep_run or "", TRIAL_TAG: str(record.run)})
                self._in_doubt = False
            if run_id is None:
                raise UnknownRunError(f"the tracker has no run of trial {record.run}")
            self._on_run(record.run, run_id)
            self._trials[record.run] = run_id
        return self._trials[record.run]

    def _run_made_before(self, number: int) -> str | None:
        """The run of a trial that this driver has not made, as far as it knows."""
        if self._in_doubt:
            self._doubtful.add(number)
            self._made_before = self._find_trials()
            self._in_doubt = False
        if number in self._made_before:
            self._doubtful.add(number)
        return self._made_before.get(number)

    def _open_sweep(self, record: Record) -> None:
        self._sweep_id = record.tags[SWEEP_TAG]
        self._experiment = self._experiment_id(record.experiment_tags)
        self.sweep_run = self._find(None) or self._create(record, record.tags)

    def _create(self, record: Record, tags: Mapping[str, str]) -> str:
        assert self._experiment is not None
        made = self._client.create_run(
            self._experiment, run_name=record.opens, start_time=record.at, tags=dict(tags)
        )
        return made.info.run_id

    def _find(self, number: int | None) -> str | None:
        """The run of a trial, or of the sweep, by its tags. Of doubles the emptier are deleted."""
        if number is None:
            found = self._search(f"tags.`{SWEEP_TAG}` = '{self._sweep_id}'")
        else:
            found = self._search(f"{self._of_sweep} and tags.`{TRIAL_TAG}` = '{number}'")
        return self._one_of(found) if found else None

    def _find_trials(self) -> dict[int, str]:
        """The runs of all trials of the sweep, by number. Of doubles the emptier are deleted."""
        of_number: dict[int, list[Run]] = {}
        for run in self._search(self._of_sweep):
            if (number := run.data.tags.get(TRIAL_TAG, "")).isdecimal():  # others' runs may lie there too
                of_number.setdefault(int(number), []).append(run)
        return {number: self._one_of(runs) for number, runs in of_number.items()}

    @property
    def _of_sweep(self) -> str:
        return f"tags.`{PARENT_TAG}` = '{self.sweep_run}'"

    def _search(self, wanted: str) -> list[Run]:
        assert self._experiment is not None
        found: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment], filter_string=wanted, page_token=token)
            found += page
            if not (token := page.token):
                return found

    def _one_of(self, doubles: list[Run]) -> str:
        doubles.sort(key=lambda run: len(run.data.params) + len(run.data.metrics), reverse=True)
        for double in doubles[1:]:
            self._client.delete_run(double.info.run_id)
        return doubles[0].info.run_id

    def _use_sweep(self, run: Run) -> None:
        self._experiment = run.info.experiment_id
        self._sweep_id = run.data.tags[SWEEP_TAG]

    def _experiment_id(self, tags: Mapping[str, str]) -> str:
        found = self._client.get_experiment_by_name(self._study)
        if found is None:
            location = None if self._home.has_tracking_server else str(self._home.artifacts / self._study)
            try:
                return self._client.create_experiment(
                    self._study, artifact_location=location, tags=dict(tags)
                )
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self._experiment_id(tags)
        if found.lifecycle_stage == LifecycleStage.DELETED:
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _tag(self, value: str) -> str:
        """A tag's value, with the pictures that it shows at their addresses on MLflow's pages."""
        address = f"get-artifact?run_uuid={self.sweep_run}&path="
        return value.replace("](artifact:", f"]({address}")[:MAX_TAG]


def _dataset_input(record: DatasetRecord) -> DatasetInput:
    dataset = Dataset(
        name=record.name,
        digest=record.digest[:36],
        source_type="generator" if record.is_drawn else "files",
        source=record.source,
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", record.context)])
