"""A real sweep whose studies are kept by a PostgreSQL server, killed and resumed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.machine import SPACE, Machine, wait_for
from tests.end_to_end.postgresql import Postgresql, running_postgresql

pytestmark = pytest.mark.slow

PLAIN = ("--trials", "3", "--set", "scheduler.name=none", "--set", "promotion.automatic=false")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    with running_postgresql() as server:
        yield server


def files_that_hold(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_killed_sweep_goes_on_from_postgresql_and_no_file_holds_its_password(
    machine: Machine, server: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = machine.start("run", str(SPACE), *PLAIN, "--storage", server.url())
    trials = machine.home / "studies" / "small" / "trials"
    assert wait_for(lambda: (trials / "0001" / "last.pt").exists() or process.poll() is not None, timeout=400)
    assert process.poll() is None, process.communicate()
    process.kill()
    out, err = process.communicate()
    assert machine.wait_until_quiet() == []

    lost = machine.run("resume", "small")
    assert lost.returncode == 2
    assert "there is no study 'small'" in lost.stderr

    done = machine.run("resume", "small", "--storage", server.url())
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("SWEEPS_STORAGE", server.socket_url())
    told = machine.leaderboard("small")["trials"]
    assert sorted(trial["trial"] for trial in told) == list(range(len(told)))
    assert sum(trial["state"] == "complete" for trial in told) == 3
    assert not (machine.home / "optuna.db").exists()

    secret = server.password.removeprefix("p@ss/")
    assert files_that_hold(secret, machine.home) == []
    assert secret not in out + err + done.stdout + done.stderr
