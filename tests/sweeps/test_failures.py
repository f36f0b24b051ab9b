"""Why a trial ended: told from what Ray brings, however it is wrapped."""

import errno
import pickle
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions
import torch
from ray.train import WorkerGroupError

from distill.errors import DivergenceError, InputError
from sweeps.failures import TIMEOUT_FILE, Failure, disk_is_full, failure_of


def ended(
    tmp_path: Path, error: BaseException | None, *, timeout_s: float | None = None, took_s: float = 1.0
) -> Failure:
    """What is said of a trial of which Tune has just written why it ended, if it could."""
    text, pickled = tmp_path / "error.txt", tmp_path / "error.pkl"
    text.write_text("Traceback ...\n" + (f"{type(error).__name__}: {error}\n" if error else ""))
    if error is not None:
        pickled.write_bytes(pickle.dumps(error))
    trial: Any = SimpleNamespace(
        error_file=str(text),
        pickled_error_file=str(pickled),
        run_metadata=SimpleNamespace(start_time=time.time() - took_s),
    )
    return failure_of(trial, tmp_path, timeout_s=timeout_s)


def from_a_task(cause: Exception) -> ray.exceptions.RayTaskError:
    return ray.exceptions.RayTaskError("train", "Traceback ...", cause)


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ray.exceptions.ActorDiedError(), "lost"),
        (ray.exceptions.ActorUnavailableError("gone", None), "lost"),
        (ray.exceptions.NodeDiedError("gone"), "lost"),
        (ray.exceptions.WorkerCrashedError(), "lost"),
        (WorkerGroupError("lost", {1: ray.exceptions.ActorDiedError()}), "lost"),
        (ray.exceptions.OutOfMemoryError("killed"), "out of memory"),
        (from_a_task(torch.OutOfMemoryError("CUDA out of memory")), "out of memory"),
        (from_a_task(MemoryError()), "out of memory"),
        (from_a_task(RuntimeError("DefaultCPUAllocator: can't allocate memory")), "out of memory"),
        (WorkerGroupError("oom", {0: from_a_task(MemoryError())}), "out of memory"),
        (from_a_task(NO_SPACE), "disk full"),
        (from_a_task(DivergenceError("train/loss is nan")), "its own"),
        (from_a_task(InputError("the cache is wrong")), "its own"),
        (from_a_task(RuntimeError("a bug")), "its own"),
        (None, "its own"),
    ],
)
def test_the_kind_is_told_by_what_ended_it(tmp_path: Path, error: BaseException | None, kind: str) -> None:
    failure = ended(tmp_path, error)
    assert failure.kind == kind
    assert failure.may_pass == (kind in ("lost", "out of memory"))


@pytest.mark.parametrize(
    ("error", "took_s", "kind"),
    [
        (ray.exceptions.ActorDiedError(), 91.0, "timeout"),
        (ray.exceptions.ActorDiedError(), 89.0, "lost"),
        (from_a_task(RuntimeError("a bug")), 91.0, "its own"),
    ],
)
def test_one_that_was_lost_on_another_machine_when_its_time_was_over_ran_out_of_it(
    tmp_path: Path, error: BaseException, took_s: float, kind: str
) -> None:
    failure = ended(tmp_path, error, timeout_s=90.0, took_s=took_s)
    assert failure.kind == kind
    assert ("resources.timeout_minutes (1.5)" in failure.reason) == (kind == "timeout")


def test_the_reason_is_the_last_line(tmp_path: Path) -> None:
    assert ended(tmp_path, RuntimeError("a bug")).reason == "RuntimeError: a bug"


def test_a_trial_that_ran_out_of_time_says_how_long_it_had(tmp_path: Path) -> None:
    (tmp_path / TIMEOUT_FILE).write_text("Timeout (0:01:30)!")
    failure = ended(tmp_path, ray.exceptions.ActorDiedError(), timeout_s=90.0)
    assert failure.kind == "timeout"
    assert not failure.may_pass
    assert "resources.timeout_minutes (1.5)" in failure.reason


def test_a_disk_without_space_is_seen_where_the_error_itself_found_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4096))
    assert ended(tmp_path, None).kind == "disk full"


def test_a_disk_without_space_is_seen_through_what_wraps_it() -> None:
    wrapped = RuntimeError("the run failed")
    wrapped.__cause__ = NO_SPACE
    assert disk_is_full(wrapped, Path())
    assert disk_is_full(RuntimeError("(sqlite3.OperationalError) database or disk is full"), Path())
    assert not disk_is_full(OSError(errno.EACCES, "Permission denied"), Path())
