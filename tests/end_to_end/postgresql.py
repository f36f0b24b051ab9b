"""A PostgreSQL server for a test: its own data folder, socket, port and password, and nothing left behind."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.machine import wait_for

OWNER = "postgres"
"""Who runs the server where the tests are root, whom PostgreSQL refuses."""


@dataclass
class Postgresql:
    """A server that is running, with one database, `sweeps`, and its superuser of the same name.

    Attributes:
        folder: Holds its data and its socket.
        address: Where it listens.
        within: What its commands are begun with, where it runs on another network than this process.
        password: Has signs that an address must write in percents.
    """

    binaries: Path
    folder: Path
    port: int
    address: str = "127.0.0.1"
    within: tuple[str, ...] = ()
    password: str = field(default_factory=lambda: f"p@ss/{secrets.token_hex(8)}")
    _server: subprocess.Popen[Any] | None = None

    def url(self, driver: str = "postgresql+psycopg") -> str:
        """Where it answers over TCP."""
        quoted = self.password.replace("@", "%40").replace("/", "%2F")
        return f"{driver}://sweeps:{quoted}@{self.address}:{self.port}/sweeps"

    def socket_url(self, driver: str = "postgresql+psycopg") -> str:
        """Where it answers over its socket."""
        return (
            self.url(driver).replace(f"{self.address}:{self.port}", "")
            + f"?host={self.folder}&port={self.port}"
        )

    def start(self) -> None:
        """Starts it, or starts it again."""
        where = ["-D", "data", "-k", str(self.folder), "-h", self.address, "-p", str(self.port)]
        self._server = subprocess.Popen(
            self._command("postgres", *where, "-c", "fsync=off", as_owner=True),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ready = self._command("pg_isready", "-q", *self._reached())
        assert wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, timeout=60)

    def stop(self) -> None:
        """Ends it, as `pg_ctl stop -m fast` does: connections are cut."""
        assert self._server is not None
        self._server.send_signal(2)
        self._server.wait(timeout=30)

    def create(self) -> None:
        """Makes its data folder and the database."""
        secret = self.folder / "password"
        secret.write_text(self.password)
        arguments = ["-D", "data", "-U", "sweeps", "-A", "scram-sha-256", "--pwfile=password", "--no-sync"]
        if os.getuid() == 0:
            shutil.chown(secret, OWNER)
        subprocess.run(
            self._command("initdb", *arguments, as_owner=True),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        with (self.folder / "data" / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {self.address}/24 scram-sha-256\n")
        self.start()
        subprocess.run(
            self._command("createdb", *self._reached(), "-U", "sweeps", "sweeps"),
            env={**os.environ, "PGPASSWORD": self.password},
            check=True,
        )

    def _reached(self) -> list[str]:
        return ["-h", self.address, "-p", str(self.port)]

    def _command(self, program: str, *arguments: str, as_owner: bool = False) -> list[str]:
        """One of PostgreSQL's programs, where the server runs."""
        become = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups"]
        owner = become if as_owner and os.getuid() == 0 else []
        return [*self.within, *owner, str(self.binaries / program), *arguments]


@contextmanager
def running_postgresql(**where: Any) -> Iterator[Postgresql]:
    """A server of its own for who asks; skips the test where none can be started, and says why.

    Args:
        where: `address` and `within` of the server.
    """
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not versions:
        pytest.skip("PostgreSQL is not installed: /usr/lib/postgresql has no initdb")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path may hold 107 bytes
    if os.getuid() == 0:
        try:
            shutil.chown(folder, OWNER)
        except LookupError:
            folder.rmdir()
            pytest.skip(f"PostgreSQL does not run as root, and this machine has no user {OWNER}")
    server = Postgresql(binaries=versions[-1].parent, folder=folder, port=_free_port(), **where)
    try:
        server.create()
        yield server
    finally:
        if server._server is not None:
            server.stop()
        shutil.rmtree(folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
