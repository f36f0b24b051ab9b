"""What is to be recorded of a sweep, on disk before it is sent to MLflow.

Each record is one line of `records.jsonl` in the study's folder; `sent.json` beside it says how far they were
acknowledged. So a tracker that is down, and a driver that is killed, delay records and lose none: whoever
drives the study next sends the rest. A record that the tracker refuses for good goes to `refused.jsonl`.
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict


def now_ms() -> int:
    """The time, as MLflow writes it: milliseconds since 1970."""
    return int(time.time() * 1000)


class DatasetRecord(BaseModel):
    """Faces that a trial used: a name, a digest of what decides every pixel, and whether they are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    context: str
    source: str
    is_drawn: bool


class Record(BaseModel):
    """What is to be written to one run, all in one go. Writing it again changes nothing.

    Attributes:
        run: The number of the trial; None for the sweep's own run.
        at: When it happened, in ms since 1970.
        opens: The run's name, where the record makes the run.
        step: Of the metrics: the epoch.
        texts: Files by their path among the run's artifacts.
        folder: One whose files become the artifacts `folder_as`, if it is there still when its turn comes.
        datasets: None where the record is not about them.
        status: What the run's status becomes.
        experiment_tags: Of the study's experiment, where the record makes it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    run: int | None
    at: int
    opens: str | None = None
    params: dict[str, str] = {}
    metrics: dict[str, float] = {}
    step: int = 0
    tags: dict[str, str] = {}
    texts: dict[str, str] = {}
    folder: str | None = None
    folder_as: str = ""
    datasets: list[DatasetRecord] | None = None
    status: str | None = None
    experiment_tags: dict[str, str] = {}


@dataclass(frozen=True)
class Waiting:
    """A record that is to be sent, and where the one after it begins."""

    record: Record
    end: int


class Outbox:
    """The records of one study. One process writes, any of its threads appends, one of them sends."""

    def __init__(self, folder: Path):
        """Opens the records in a study's folder, and drops one that a crash left half written."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "records.jsonl"
        self._sent_path = folder / "sent.json"
        self._refused_path = folder / "refused.jsonl"
        self._log = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._changed = threading.Condition()
        written = self._path.read_bytes()
        self._size = written.rfind(b"\n") + 1
        os.ftruncate(self._log, self._size)
        self._sent, self.sweep_run = self._read_sent()
        self._num_waiting = written.count(b"\n", self._sent)

    @property
    def num_waiting(self) -> int:
        """How many records were not acknowledged yet."""
        return self._num_waiting

    def append(self, record: Record, *, durable: bool = False) -> None:
        """Writes a record. The end of this process cannot undo it.

        Args:
            durable: Whether the end of the machine shall not undo it either, nor the records before.

        Raises:
            OSError: If the disk is full or gone. Nothing was written.
        """
        line = record.model_dump_json(exclude_defaults=True).encode() + b"\n"
        with self._changed:
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._log, line[written:])
                if durable:
                    os.fsync(self._log)
            except OSError as error:
                os.ftruncate(self._log, self._size)
                raise OSError(error.errno, error.strerror, str(self._path)) from None
            self._size += len(line)
            self._num_waiting += 1
            self._changed.notify_all()

    def history(self) -> Iterator[Record]:
        """Every record, the first first."""
        with self._path.open("rb") as file:
            while file.tell() < self._size:
                yield Record.model_validate_json(file.readline())

    def first(self, *, timeout_s: float, at_most: int = 1) -> list[Waiting]:
        """The records that are to be sent next, in their order; none where none came within the time."""
        with self._changed:
            self._changed.wait_for(lambda: self._sent < self._size, timeout=timeout_s)
            size = self._size
        waiting: list[Waiting] = []
        with self._path.open("rb") as file:
            file.seek(self._sent)
            while file.tell() < size and len(waiting) < at_most:
                record = Record.model_validate_json(file.readline())
                waiting.append(Waiting(record, file.tell()))
        return waiting

    def acknowledge(self, waiting: Sequence[Waiting], *, sweep_run: str | None) -> None:
        """Remembers that the next records were taken, as `first` gave them.

        Args:
            sweep_run: The id of the sweep's run, by which the tracker is known again.
        """
        self._remember(waiting[-1].end, sweep_run)
        with self._changed:
            self._num_waiting -= len(waiting)
            self._changed.notify_all()

    def put_aside(self, waiting: Waiting, reason: str) -> None:
        """Keeps a record that is refused for good where it holds up no other. Acknowledge it too."""
        entry = {
            "reason": reason,
            "record": json.loads(waiting.record.model_dump_json(exclude_defaults=True)),
        }
        with self._refused_path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def rewind(self) -> None:
        """Forgets that anything was sent: for a tracker that knows nothing of this study."""
        self._remember(0, None)
        with self._changed:
            self._num_waiting = self._path.read_bytes().count(b"\n")

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._log)

    def _remember(self, end: int, sweep_run: str | None) -> None:
        beside = self._sent_path.with_suffix(".new")
        beside.write_text(json.dumps({"offset": end, "sweep_run": sweep_run}))
        os.replace(beside, self._sent_path)
        self._sent, self.sweep_run = end, sweep_run

    def _read_sent(self) -> tuple[int, str | None]:
        if not self._sent_path.exists():
            return 0, None
        sent = json.loads(self._sent_path.read_text())
        # Lines that the disk lost with the machine may have been sent before.
        return min(sent["offset"], self._size), sent["sweep_run"]
