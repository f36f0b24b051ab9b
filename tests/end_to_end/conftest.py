"""Homes for real sweeps."""

from pathlib import Path

import pytest

from tests.end_to_end.machine import SPACE, Machine


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
