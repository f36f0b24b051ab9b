"""What MLflow holds of a sweep: one experiment a study, one run a sweep, one child run a trial.

Everything is written down first (`sweeps.outbox`) and sent by one thread beside Ray Tune's loop
(`sweeps.delivery`): a slow or absent tracker delays its own records, never a trial, and loses none.
"""

import contextlib
import itertools
import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import yaml
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from distill.errors import RefusedError
from sweeps.checks import Check
from sweeps.delivery import KIND_TAG, NOTE_TAG, SWEEP_TAG, Delivery, brief_requests, is_refused_for_good
from sweeps.home import Home, masked
from sweeps.mlflow_pages import experiment_tags, trials_page
from sweeps.outbox import DatasetRecord, Outbox, Record, Waiting, now_ms
from sweeps.provenance import Provenance

STUDY_TAG, STATE_TAG, REASON_TAG = "study", "state", "reason"
JOBS_VARIABLE = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
"""Else MLflow's server starts ten more processes, for evaluations of language models that it is asked for."""
RETRY_S = 2.0
FLUSH_S = 60.0
TOGETHER = 64
"""Records that are sent at most before they are acknowledged."""
GATHER_S = 1.0
"""How long records are gathered before more are sent: those of one run cost least together."""
MAX_REASON = 5_000

# How a trial's end reads in MLflow. A pruned trial was stopped on purpose: killed, not failed.
STATUS = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "infeasible": "KILLED",
    "failed": "FAILED",
    "interrupted": "FAILED",
}


def check_tracker(home: Home) -> Check:
    """Whether MLflow answers. Its database is created here on first use.

    Once, by the driver, before any trial: several processes at it would ruin the database.
    """
    where = f"MLflow at {masked(home.tracking_uri)}"
    if home.tracking_uri.startswith("http") and masked(home.tracking_uri) != home.tracking_uri:
        return Check(
            name="tracker",
            ok=False,
            finding=f"{where} is given a password in its address, which would be kept and shown: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead",
        )
    try:
        if (missing := home.missing_database) is not None:
            _make_database(missing, artifacts=home.artifacts)
        with brief_requests():
            MlflowClient(tracking_uri=home.tracking_uri).search_experiments(max_results=1)
    except Exception as error:  # whatever a store or a server raises
        return Check(name="tracker", ok=False, finding=f"{where} {_what_is_wrong(error, home)}")
    return Check(name="tracker", ok=True, finding=f"{where} answers")


def _make_database(path: Path, *, artifacts: Path) -> None:
    """Makes MLflow's tables in a file beside, which then takes its place whole.

    It takes seconds, and a database whose making was cut short could never be used again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:
        made = Path(folder) / path.name
        SqlAlchemyStore(f"sqlite:///{made}", str(artifacts)).engine.dispose()
        with contextlib.suppress(FileExistsError):  # another driver was faster
            os.link(made, path)


def _what_is_wrong(error: Exception, home: Home) -> str:
    """What a tracker's refusal means, and what mends it."""
    said = str(error)
    if "Invalid Host header" in said:
        host = urlsplit(home.tracking_uri).netloc.rpartition("@")[2]
        return f"does not serve the host {host}: start it with --allowed-hosts '{host}'"
    if "error code 401" in said:
        if os.environ.get("MLFLOW_TRACKING_USERNAME"):
            return "refuses this user and password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return "wants a user and a password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if "error code 403" in said or "PERMISSION_DENIED" in said:
        return "lets this user read nothing: ask for permission, or set another MLFLOW_TRACKING_USERNAME"
    if "error code 404" in said or "valid JSON" in said:
        return "is no MLflow server: choose another with --tracking-uri"
    return f"does not answer ({_first_line(error)}): choose another with --tracking-uri"


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
    print(f"serving {masked(home.tracking_uri)} at http://{host}:{port} (Ctrl-C ends it)", flush=True)
    os.environ.setdefault(JOBS_VARIABLE, "false")
    os.execv(sys.executable, command)


class Tracker:
    """Records one sweep. Methods return at once; what they record is on disk, and is sent in order."""

    def __init__(self, home: Home, *, study: str, on_run: Callable[[int, str], None]):
        """Opens the records of a study, and begins to send what an earlier driver left.

        Args:
            on_run: Told each trial's number and run id, once the run exists. Called from the sending thread.
        """
        self._home = home
        self._study = study
        self._outbox = Outbox(home.study(study).root)
        self._delivery = Delivery(home, study=study, sweep_run=self._outbox.sweep_run, on_run=on_run)
        self._provenance: Provenance | None = None
        self._objectives: list[str] = []
        self._unmade: dict[int, Callable[[], dict[str, Any]]] = {}
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._failing_since: float | None = None
        self._thread = threading.Thread(target=self._send, name="tracker", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """How many records the tracker has not taken yet."""
        return self._outbox.num_waiting

    @property
    def parent_run_id(self) -> str | None:
        """The sweep's run; None until the tracker has it."""
        return self._delivery.sweep_run

    @property
    def experiment_id(self) -> str | None:
        """The study's experiment; None until the tracker has it."""
        return self._delivery.experiment_id

    @property
    def page(self) -> str | None:
        """Where MLflow shows the trials, below its address; None until the tracker has the sweep."""
        return None if self.experiment_id is None else trials_page(self.experiment_id)

    def start_sweep(self, *, space_yaml: str, params: Mapping[str, Any], provenance: Provenance) -> None:
        """Opens the sweep's run, or opens it again."""
        self._provenance = provenance
        space = yaml.safe_load(space_yaml)
        self._objectives = [objective["metric"] for objective in space["objectives"]]
        first = next((record for record in self._outbox.history() if record.run is None), None)
        opening = first or Record(
            run=None,
            at=now_ms(),
            opens=self._study,
            params=_params(params),
            tags={
                STUDY_TAG: self._study,
                KIND_TAG: "sweep",
                SWEEP_TAG: uuid.uuid4().hex,
                **provenance.tags(),
            },
            texts={"space.yaml": space_yaml, "environment.json": provenance.environment_json},
            experiment_tags=experiment_tags(space),
        )
        # What a resumed sweep was begun with stands: it is said again, in case that it never arrived.
        texts = opening.texts | provenance.difference_file()
        self._outbox.append(opening.model_copy(update={"status": "RUNNING", "texts": texts}), durable=True)

    def start_trial(
        self,
        number: int,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Callable[[], Iterable[DatasetRecord]],
        digests: Callable[[], Mapping[str, str]] = dict,
        config_json: str,
    ) -> None:
        """Opens a trial's child run, with every parameter under its dotted name.

        Args:
            datasets: Makes the records of its faces. The sending thread calls it, since it may render them.
            digests: Makes further tags, of what must be loaded to be known. Called likewise.
        """
        assert self._provenance is not None, "a sweep starts before its trials"
        self._write(
            number,
            opens=name,
            params=_params(params),
            tags={STUDY_TAG: self._study, STATE_TAG: "running", **self._provenance.tags(), **tags},
            texts={"config.json": config_json, "environment.json": self._provenance.environment_json},
        )
        self._unmade[number] = lambda: {"datasets": list(datasets()), "tags": dict(digests())}

    def log_epoch(self, number: int, *, epoch: int, metrics: Mapping[str, float]) -> None:
        """Records one epoch's metrics, all in one call."""
        # MLflow's page of comparison shows the metric that it met first.
        leading = {name: metrics[name] for name in self._objectives if name in metrics}
        self._write(number, metrics=leading | dict(metrics), step=epoch)

    def note_attempt(self, number: int, attempt: int, reason: str) -> None:
        """Says that a trial was begun again.

        Args:
            attempt: Which attempt begins: 2 for the first that is no trial's beginning.
            reason: What ended the one before.
        """
        tags = {f"attempt.{attempt}": reason[:MAX_REASON], "attempts": str(attempt)}
        self._write(number, tags=tags)

    def tag_trial(self, number: int, **tags: str) -> None:
        """Tags a trial's run. `note` is shown as its description, in Markdown."""
        named = {NOTE_TAG if name == "note" else name: value for name, value in tags.items()}
        self._write(number, tags=named)

    def describe_sweep(self, markdown: str) -> None:
        """Sets what the sweep's page says. Pictures among its artifacts are `![...](artifact:PATH)`.

        MLflow keeps 8000 characters: what is longer ends with its last whole line.
        """
        room = 7_500  # addresses of pictures are longer than their paths
        text = markdown if len(markdown) <= room else markdown[: markdown.rindex("\n", 0, room)]
        self._write(None, tags={NOTE_TAG: text})

    def log_sweep_files(self, folder: Path, artifact_path: str) -> None:
        """Keeps a folder's files as artifacts of the sweep. It must stay until they are sent."""
        self._write(None, folder=str(folder.absolute()), folder_as=artifact_path)

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
        self._write(
            number,
            durable=True,
            metrics={f"best/{name}": value for name, value in best.items()},
            tags={STATE_TAG: state} | ({REASON_TAG: reason[:MAX_REASON]} if reason else {}),
            status=STATUS[state],
        )

    def log_student(self, number: int, folder: Path) -> None:
        """Keeps a trial's best student, from its folder, as the artifact `student` of its run."""
        self._write(number, durable=True, folder=str(folder.absolute()), folder_as="student")

    def finish_sweep(
        self, *, status: str, metrics: Mapping[str, float], leaderboard: Mapping[str, str]
    ) -> None:
        """Closes the sweep's run, with the whole leaderboard beside it: texts by the names of their files."""
        self._write(None, durable=True, metrics=dict(metrics), texts=dict(leaderboard), status=status)

    def adopt_children(self) -> dict[int, str]:
        """The state of each trial that is recorded, by number, whether or not the tracker has it yet.

        One whose driver died before it knew the trial's faces is left out: start it again.
        """
        states: dict[int, str] = {}
        known: set[int] = set()
        for record in self._outbox.history():
            if record.run is not None:
                if STATE_TAG in record.tags:
                    states[record.run] = record.tags[STATE_TAG]
                if record.datasets is not None:
                    known.add(record.run)
        return {number: state for number, state in states.items() if number in known}

    def close(self) -> bool:
        """Sends what is left, until the tracker has taken nothing for a minute.

        Returns:
            Whether nothing is left. The rest waits for the study's next driver.
        """
        self._closing.set()
        began = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(timeout=0.1)
            if self._failing_since and time.monotonic() - max(self._failing_since, began) > FLUSH_S:
                break
        self._abandoned.set()
        if self._thread.is_alive():
            return False
        self._outbox.close()
        return self.num_waiting == 0

    def _write(self, run: int | None, *, durable: bool = False, **fields: Any) -> None:
        self._outbox.append(Record(run=run, at=now_ms(), **fields), durable=durable)

    def _send(self) -> None:
        """The sending thread: one record after the other, each until it is taken."""
        with brief_requests():
            is_known = False
            while not self._abandoned.is_set():
                try:
                    self._make_datasets()
                    if not is_known and not self._delivery.knows_sweep():
                        self._outbox.rewind()
                    is_known = True
                    waiting = self._outbox.first(timeout_s=0.1, at_most=TOGETHER)
                    if waiting:
                        self._take(waiting)
                        if len(waiting) < TOGETHER:
                            self._closing.wait(GATHER_S)
                    elif self._closing.is_set() and not self._unmade:
                        return
                except Exception as error:  # whatever a store, a server or Optuna's database raises
                    self._say_failing(error)
                    self._abandoned.wait(RETRY_S)

    def _take(self, waiting: Sequence[Waiting]) -> None:
        """Sends the first of what waits, with all that waits for the same runs before the sweep's turn."""
        of_trials = list(itertools.takewhile(lambda each: each.record.run is not None, waiting))
        taken = of_trials or waiting[:1]
        of_run: dict[int | None, list[Waiting]] = {}
        for each in taken:
            of_run.setdefault(each.record.run, []).append(each)
        for together in of_run.values():
            self._deliver(together)
        self._outbox.acknowledge(taken, sweep_run=self._delivery.sweep_run)
        if self._failing_since is not None:
            _say(f"{self._where} takes records again")
            self._failing_since = None

    def _deliver(self, together: Sequence[Waiting]) -> None:
        try:
            self._delivery.deliver([each.record for each in together])
        except Exception as error:
            if not is_refused_for_good(error):
                raise
            if len(together) > 1:  # not all of them are to blame
                for each in together:
                    self._deliver([each])
                return
            self._outbox.put_aside(together[0], str(error))
            _say(
                f"{self._where} refused a record for good, it is kept in refused.jsonl: {_first_line(error)}"
            )

    def _make_datasets(self) -> None:
        for number in list(self._unmade):
            try:
                made = self._unmade[number]()
            except Exception as error:  # their files may be gone by now
                made = {"datasets": [], "tags": {"datasets": f"not known: {_first_line(error)}"}}
            self._write(number, **made)
            del self._unmade[number]

    def _say_failing(self, error: Exception) -> None:
        if self._failing_since is None:
            reason = _first_line(error)
            _say(f"{self._where} did not take a record, trying again; {self.num_waiting} wait: {reason}")
            self._failing_since = time.monotonic()

    @property
    def _where(self) -> str:
        return f"the tracker {masked(self._home.tracking_uri)}"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names; what is unset is left out."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = value
    return flat


def _params(params: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in params.items()}


def _first_line(error: Exception) -> str:
    return masked((str(error).strip().splitlines() or [type(error).__name__])[0])


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # a full disk has no room for it either
        print(sentence)
