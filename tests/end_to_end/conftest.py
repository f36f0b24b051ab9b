"""Homes for real sweeps."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.machine import SPACE, Machine, RayHead


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(home=tmp_path / "home")


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A home on which the small sweep was run once, to its promotion. Read it, don't change it."""
    machine = Machine(home=tmp_path_factory.mktemp("swept") / "home")
    done = machine.run("run", str(SPACE), "--json")
    assert done.returncode == 0, done.stderr
    (machine.home / "document.json").write_text(done.stdout)
    return machine


@pytest.fixture(scope="session")
def ray_head() -> Iterator[RayHead]:
    """A cluster of this machine for sweeps that need not start their own, which takes ten seconds."""
    # Its token is not for the environment of this process, whose own clusters have none.
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    head = subprocess.Popen(
        [sys.executable, "-m", "tests.end_to_end.ray_head"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    assert head.stdout is not None
    yield RayHead(address=head.stdout.readline().strip(), environment=environment)
    head.communicate(timeout=60)
