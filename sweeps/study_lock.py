"""A study's lock where its machines share no disk: one of PostgreSQL's, which falls with its connection."""

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.engine import Connection

from sweeps.home import Driver

NAME = "sweeps"
LONGEST = 63
"""Bytes of what a connection may be called."""


@dataclass(frozen=True)
class StudyLock:
    """The lock of one study.

    Attributes:
        url: Of the PostgreSQL that keeps its trials.
        study: What it is called among all that are locked there.
    """

    url: str
    study: str

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Holds it, or tells that another driver does."""
        with self._connected() as connection:
            taken = text("SELECT pg_try_advisory_lock(:key)")
            yield bool(connection.execute(taken, {"key": self._key}).scalar())

    def read_driver(self) -> Driver | None:
        """Who holds it; None when nobody does."""
        with self._connected() as connection:
            holder = text(
                "SELECT a.application_name, a.backend_start AT TIME ZONE 'UTC' FROM pg_locks l "
                "JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted "
                "AND l.objsubid = 1 AND (l.classid::bigint << 32) | l.objid::bigint = :key"
            )
            row = connection.execute(holder, {"key": self._key}).first()
        if row is None:
            return None
        if row[0] is None:  # PostgreSQL shows connections to their own user
            return Driver(host="a machine of another user of the database", pid=0, since="a time unknown")
        _, pid, host = row[0].split(" ", 2)
        return Driver(host=host, pid=int(pid), since=f"{row[1]:%Y-%m-%d %H:%M:%S}")

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        called = f"{NAME} {os.getpid()} {platform.node()}"[:LONGEST]
        engine = create_engine(
            self.url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            # It is idle for as long as a sweep lasts, and what lies between forgets idle connections.
            connect_args={"application_name": called, "connect_timeout": 10, "keepalives_idle": 60},
        )
        with engine.connect() as connection:
            yield connection

    @property
    def _key(self) -> int:
        """Of its name, as PostgreSQL takes it: 63 bits."""
        return int.from_bytes(hashlib.sha256(self.study.encode()).digest()[:8], "big") >> 1
