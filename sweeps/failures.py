"""Why a trial ended with an error, and whether beginning it again can help."""

import errno
import pickle
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    OwnerDiedError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.train import WorkerGroupError
from ray.tune.experiment import Trial as TuneTrial

from distill.training import read_timeout
from distill.training.timeout import TIMEOUT as TIMEOUT_FILE
from sweeps.depot import StoreError

Kind = Literal["lost", "out of memory", "timeout", "disk full", "its own"]

_LOST = (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OwnerDiedError,
    RayActorError,
    StoreError,
    WorkerCrashedError,
)
NO_ROOM = 2**20
"""Bytes: what is left of a disk when nothing of use can be written any more."""
# What torch says when the CPU's memory, not a GPU's, ends: a plain RuntimeError.
_CPU_MEMORY = "can't allocate memory"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a trial ended with an error.

    Attributes:
        kind: lost: its process or node is gone. out of memory, timeout, disk full: as they say. its own: it
            would fail again.
        reason: An error and its message, in a line.
    """

    kind: Kind
    reason: str

    @property
    def may_pass(self) -> bool:
        """Whether the trial may come through when it is begun again from its last epoch."""
        return self.kind in ("lost", "out of memory")


def failure_of(trial: TuneTrial, directory: Path, *, timeout_s: float | None) -> Failure:
    """Says why a trial of Tune's ended with an error.

    Args:
        directory: The trial's.
        timeout_s: What it was given.
    """
    error = _error(trial)
    if timeout_s is not None:
        reason = f"it ran longer than resources.timeout_minutes ({timeout_s / 60:g})"
        if read_timeout(directory) is not None:
            return Failure(kind="timeout", reason=f"{reason}; {directory / TIMEOUT_FILE} says where it was")
        # Where it ended on a machine that does not share the directory.
        took = time.time() - (trial.run_metadata.start_time or time.time())
        if took >= timeout_s and _kind(list(_causes(error))) == "lost":
            return Failure(kind="timeout", reason=reason)
    if disk_is_full(error, directory):
        return Failure(kind="disk full", reason=_last_line(trial))
    return Failure(kind=_kind(list(_causes(error))), reason=_last_line(trial))


def disk_is_full(error: BaseException | None, folder: Path) -> bool:
    """Whether an error, or what brought it about, is a disk without space; or there is none left.

    Args:
        error: None where it could not be written down whole, which itself may be for want of space.
        folder: On the disk.
    """
    if any(_says_full(cause) for cause in _causes(error)):
        return True
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(nearest).free < NO_ROOM


def _kind(causes: list[BaseException]) -> Kind:
    memory = (torch.OutOfMemoryError, MemoryError, OutOfMemoryError)
    if any(isinstance(cause, memory) or _CPU_MEMORY in str(cause) for cause in causes):
        return "out of memory"
    # A task's error wraps what its code raised, which then is a cause of its own.
    own = [cause for cause in causes if not isinstance(cause, RayTaskError | WorkerGroupError)]
    return "lost" if any(isinstance(cause, _LOST) for cause in own) else "its own"


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or "database or disk is full" in str(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and all that it says to have brought it about."""
    if error is None:
        return
    yield error
    inner = [getattr(error, "cause", None), error.__cause__, error.__context__]
    inner += list(getattr(error, "worker_failures", {}).values())
    for cause in inner:
        if isinstance(cause, BaseException) and cause is not error:
            yield from _causes(cause)


def _error(trial: TuneTrial) -> BaseException | None:
    """What ended a trial, where it could be sent here."""
    try:
        # From where Tune, in this process, has just written it: what `get_pickled_error` reads comes later.
        file = trial.pickled_error_file
        return None if file is None else pickle.loads(Path(file).read_bytes())
    except (pickle.PickleError, AttributeError, ImportError, OSError, EOFError, TypeError):
        return None


def _last_line(trial: TuneTrial) -> str:
    """What a failed trial says of itself: the last line of its traceback, an error and its message."""
    file = trial.error_file
    lines = Path(file).read_text().split("\n") if file and Path(file).exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it ended without saying why")
