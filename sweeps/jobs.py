"""Sweeps as Ray jobs: launched, watched and stopped from a machine outside the cluster, over HTTP.

The code that runs here goes along as the job's working directory, see `sweeps.submission`.
"""

import asyncio
import logging
import os
import re
import shlex
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from distill.errors import InputError, RefusedError
from sweeps.submission import HOME, STUDY, TRACKING, Submission, pack

REACH_TIMEOUT_S = 10
# Ray kills what does not stop within 3 seconds: a sweep needs longer to tell its trials and its tracker.
STOP_WAIT_S = 120
RECONNECT_S, RECONNECTS = 2, 15
MIB = 2**20

_DONE = re.compile(r"(?P<done>\d+/\d+) done(?:, best (?P<best>\S+) in trial (?P<trial>\d+))?$", re.MULTILINE)
"""How a sweep's log ends the line of a trial that ended."""


class Sent(NamedTuple):
    """A job that was submitted, and the size in bytes of what went with it."""

    job_id: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class JobStanding:
    """How a sweep's job stands.

    Attributes:
        state: Ray's: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        trials: `done/all`, None before the first trial ended.
        best: The best value of the first objective, as the log shows it.
    """

    study: str
    job: str
    state: str
    since: str
    trials: str | None
    best: str | None
    best_trial: int | None
    exit_code: int | None
    home: str | None

    def document(self) -> dict[str, Any]:
        """In plain types."""
        return asdict(self)


class Jobs:
    """The sweeps of one cluster, through its dashboard.

    Every method raises RefusedError where the cluster does not answer, or refuses.
    """

    def __init__(self, address: str):
        """Reaches the cluster.

        Args:
            address: Of its dashboard: `http://HEAD:8265`.

        Raises:
            InputError: If that is no such address.
            RefusedError: If no Ray dashboard answers there, or it refuses the token.
        """
        self.address = address.rstrip("/")
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path:
            raise InputError(f"--address must be a dashboard's, such as http://HEAD:8265, got {address!r}")
        for handler in logging.getLogger("ray").handlers:
            handler.setLevel(logging.WARNING)  # it tells of every upload and of every connection that ends
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        with self._answering():
            # Ray's client would wait for minutes where nothing answers.
            socket.create_connection((parts.hostname, port), timeout=REACH_TIMEOUT_S).close()
            os.environ["RAY_API_SERVER_ADDRESS"] = self.address  # else RAY_ADDRESS wins over the argument
            self._client = JobSubmissionClient(self.address)

    def free_name(self, name: str) -> str:
        """A name that no sweep of this cluster has had: `name`, numbered where it was taken."""
        taken = {_said(job)[STUDY] for job in self._sweeps()}
        numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
        return next(candidate for candidate in numbered if candidate not in taken)

    def submit(self, submission: Submission) -> Sent:
        """Starts a job.

        Raises:
            RefusedError: If a job drives this study already, or the code is too large for Ray to carry.
        """
        former = self._sweeps(submission.study)
        if former and not former[0].status.is_terminal():
            raise RefusedError(
                f"study {submission.study} is being driven by job {former[0].submission_id}: stop it first "
                f"with `{self.command('stop', submission.study)}`"
            )
        with tempfile.TemporaryDirectory(prefix="sweeps-") as folder:
            num_bytes = pack(submission, Path(folder))
            if num_bytes > GCS_STORAGE_MAX_SIZE:
                raise RefusedError(
                    f"Ray carries at most {GCS_STORAGE_MAX_SIZE / MIB:,.0f} MiB of code to a cluster, and "
                    f"this is {num_bytes / MIB:,.0f} MiB: keep weights and faces on a disk that its nodes see"
                )
            with self._answering():
                job_id = self._client.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=f"{submission.study}.{len(former) + 1}",
                    metadata=submission.metadata,
                    runtime_env={
                        "working_dir": folder,
                        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "MALLOC_ARENA_MAX": "1"},
                    },
                )
        return Sent(job_id, num_bytes)

    def resumption(self, study: str, *, home: str | None, tracking_uri: str | None) -> Submission:
        """Goes on with a study, where its last job on this cluster kept it unless told otherwise."""
        former = self._sweeps(study)
        places = _said(former[0]) if former else {}
        return Submission(
            study=study,
            space_yaml=None,
            home=home or places.get(HOME),
            tracking_uri=tracking_uri or places.get(TRACKING),
        )

    def latest(self, study: str) -> JobDetails:
        """The job that drives a study, or the last that did.

        Raises:
            InputError: If this cluster never had one.
        """
        if sweeps := self._sweeps(study):
            return sweeps[0]
        names = sorted({_said(job)[STUDY] for job in self._sweeps()})
        known = f"it has those of {', '.join(names)}" if names else "it has none yet"
        raise InputError(f"{self.address} has no job of a study {study!r}: {known}")

    def standing(self, study: str) -> JobStanding:
        """How the job of a study stands, and how many of its trials are done."""
        job = self.latest(study)
        told = list(_DONE.finditer(self.log(job)))
        last = told[-1] if told else None
        return JobStanding(
            study=study,
            job=job.submission_id or "",
            state=job.status.value,
            since=datetime.fromtimestamp((job.start_time or 0) / 1000, UTC).isoformat(timespec="seconds"),
            trials=last["done"] if last else None,
            best=last["best"] if last else None,
            best_trial=int(last["trial"]) if last and last["trial"] else None,
            exit_code=job.driver_exit_code,
            home=_said(job).get(HOME),
        )

    def log(self, job: JobDetails) -> str:
        """All that a job printed so far."""
        with self._answering():
            return self._client.get_job_logs(job.submission_id or "")

    def follow(self, job_id: str, write: Callable[[str], None]) -> JobDetails:
        """Hands on what a job prints until it ends, across connections that are lost on the way.

        Raises:
            RefusedError: If the cluster stays away.
        """
        num_seen, failures = 0, 0

        async def tail() -> None:
            nonlocal num_seen
            position = 0  # every connection begins with the log's first line
            async for text in self._client.tail_job_logs(job_id):
                position += len(text)
                if position > num_seen:
                    write(text[num_seen - position :])
                    num_seen = position

        while True:
            try:
                asyncio.run(tail())
                if (job := self._info(job_id)).status.is_terminal():
                    return job
                failures = 0
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                failures += 1
                if failures > RECONNECTS:
                    raise RefusedError(
                        f"the connection to {self.address} is lost, and the sweep goes on if its cluster "
                        f"does: {_last_line(error)}"
                    ) from None
            time.sleep(RECONNECT_S)

    def stop(self, study: str) -> JobDetails:
        """Ends the job of a study as Ctrl-C would end a sweep, and waits until it has ended.

        Raises:
            RefusedError: If it does not end.
        """
        job = self.latest(study)
        job_id = job.submission_id or ""
        if job.status.is_terminal():
            return job
        with self._answering():
            self._client.stop_job(job_id)
        deadline = time.monotonic() + STOP_WAIT_S + 30
        while not (job := self._info(job_id)).status.is_terminal():
            if time.monotonic() > deadline:
                raise RefusedError(f"job {job_id} still runs after {STOP_WAIT_S} s")
            time.sleep(0.5)
        return job

    def command(self, verb: str, study: str, *more: str) -> str:
        """What one types to go on with a sweep of this cluster."""
        words = ["submit", "--resume"] if verb == "resume" else [verb]
        return shlex.join(["sweeps", *words, study, "--address", self.address, *more])

    def _sweeps(self, study: str | None = None) -> list[JobDetails]:
        """Every job that is a sweep's, or one study's; the latest first."""
        with self._answering():
            jobs = self._client.list_jobs()
        ours = [job for job in jobs if STUDY in _said(job) and job.submission_id]
        found = [job for job in ours if study in (None, _said(job)[STUDY])]
        return sorted(found, key=lambda job: job.start_time or 0, reverse=True)

    def _info(self, job_id: str) -> JobDetails:
        with self._answering():
            return self._client.get_job_info(job_id)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Says in a sentence why a cluster does not do what it is asked."""
        try:
            yield
        except AuthenticationError as error:
            raise RefusedError(f"{self.address} {_token_trouble(error)}") from None
        except RuntimeError as error:  # an answer, but another than was hoped for; often a traceback
            raise RefusedError(f"{self.address} refuses: {_last_line(error)}") from None
        except (OSError, ValueError, KeyError) as error:
            raise RefusedError(f"no Ray dashboard answers at {self.address}: {_last_line(error)}") from None


def _said(job: JobDetails) -> dict[str, str]:
    """What a job says of itself."""
    return job.metadata or {}


def _token_trouble(error: AuthenticationError) -> str:
    where = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
    if "Invalid" in str(error):
        return f"refuses the token: it must be the cluster's, in {where}"
    return f"wants a token: set RAY_AUTH_MODE=token and keep the cluster's token in {where}"


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")


def exit_code(job: JobDetails) -> int:
    """What the sweep of a job that ended would have ended with here."""
    if job.driver_exit_code is not None:
        return job.driver_exit_code
    return 130 if job.status == JobStatus.STOPPED else 1
