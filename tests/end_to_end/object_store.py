"""An object store for tests: S3 as moto serves it, in a process of its own, with one bucket."""

import contextlib
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sweeps.home import Home
from tests.end_to_end.machine import BIN, wait_for
from tests.end_to_end.mlflow_server import free_port

BUCKET = f"sweeps-test-{uuid.uuid4().hex[:8]}"
"""Of this process: each has copies of its own, whatever runs beside it."""


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """A store and its bucket.

    Attributes:
        address: Where it listens.
    """

    address: str = "127.0.0.1"
    port: int = field(default_factory=free_port)

    @property
    def home(self) -> str:
        """What `--home` calls it."""
        return f"s3://{BUCKET}/runs"

    @property
    def environment(self) -> dict[str, str]:
        """What everybody is told who uses it."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self.address}:{self.port}",
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def server(self) -> list[str]:
        """The command that serves it."""
        return [str(BIN / "moto_server"), "-H", self.address, "-p", str(self.port)]

    @property
    def make_bucket(self) -> list[str]:
        """The command that makes its bucket, within its environment."""
        make = "import boto3, sys; boto3.client('s3').create_bucket(Bucket=sys.argv[1])"
        return [sys.executable, "-c", make, BUCKET]

    def answers(self) -> bool:
        """Whether it has its bucket, which is made where it answers."""
        return subprocess.run(self.make_bucket, capture_output=True, env=self.environment).returncode == 0

    @property
    def copies(self) -> Path:
        """What a machine has of the home."""
        return Home.at(self.home, "http://tracker", "postgresql://db").root


@contextmanager
def running_store() -> Iterator[ObjectStore]:
    """A store on this machine, which ends with the block."""
    store = ObjectStore()
    server = subprocess.Popen(store.server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with copies_removed():
        try:
            assert wait_for(store.answers, timeout=60)
            yield store
        finally:
            server.kill()
            server.wait()


@contextmanager
def copies_removed() -> Iterator[None]:
    """Leaves nothing of the home on this machine."""
    try:
        yield
    finally:
        folder = ObjectStore(port=0).copies.parent
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # others use it too
            folder.parent.rmdir()
