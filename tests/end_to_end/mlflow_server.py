"""MLflow servers for tests: real ones, in processes of their own, on this machine."""

import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient

from sweeps.tracking import JOBS_VARIABLE


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@functools.cache
def _migrated() -> Path:
    """An empty database with MLflow's tables, whose making takes twenty seconds."""
    database = Path(tempfile.mkdtemp(prefix="mlflow-empty-")) / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments()
    return database


def empty_database(path: Path) -> Path:
    """A copy of a database with MLflow's tables and nothing in them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(_migrated(), path)
    return path


LIGHT = {"MLFLOW_DISABLE_TELEMETRY": "true", JOBS_VARIABLE: "false"}
"""The environment of a server that has no processes beside those that answer."""


@dataclass
class MlflowServer:
    """A server over a database and a folder of artifacts; started again, it is the same one."""

    root: Path
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        if not (self.root / "mlflow.db").exists():
            empty_database(self.root / "mlflow.db")

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "MlflowServer":
        """Starts it and returns once it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.root / 'mlflow.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.root / "artifacts"), *self.options]
        with (self.root / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | LIGHT | self.environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while not self.answers():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)
        return self

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code < 500
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Ends it and its workers at once, as a power cut would."""
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None

    def log(self) -> str:
        return (self.root / "server.log").read_text()[-3000:]
