"""A real sweep whose machines share no disk: the one that drove it is lost, and another goes on."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from distill.checkpoint import load_state
from distill.errors import RefusedError
from sweeps.depot import Depot
from sweeps.home import StudyFolder
from sweeps.study_lock import StudyLock
from tests.end_to_end.machine import BIN, MARK, SPACE, Machine, wait_for
from tests.end_to_end.mlflow_server import MlflowServer
from tests.end_to_end.object_store import ObjectStore, running_store
from tests.end_to_end.postgresql import Postgresql, running_postgresql

pytestmark = pytest.mark.slow

SPEED = "train/faces_per_second"
EPOCHS = 8
"""More than are trained between the line that tells of the second one and the kill that it calls for."""
CHANGED = ("scheduler.name=none", "promotion.automatic=false", f"training.epochs={EPOCHS}")
PLAIN = ("--trials", "2", *(word for setting in CHANGED for word in ("--set", setting)))


@pytest.fixture(scope="module")
def database() -> Iterator[Postgresql]:
    with running_postgresql() as database:
        yield database


@dataclass
class World:
    """A store, a tracker and a database, which machines reach and which outlive them."""

    store: ObjectStore
    tracker: MlflowServer
    database: Postgresql
    machine: Machine

    def command(self, *arguments: str) -> list[str]:
        return [str(BIN / "sweeps"), *arguments, "--home", self.store.home]

    @property
    def environment(self) -> dict[str, str]:
        places = {"SWEEPS_STORAGE": self.database.url(), "MLFLOW_TRACKING_URI": self.tracker.uri}
        return {**os.environ, **self.store.environment, **places, MARK: self.machine.mark}

    def sweeps(self, *arguments: str) -> str:
        """Runs `sweeps` to its end, and returns what it says."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, env=self.environment, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def lose_machine(self) -> None:
        """All that this machine has of the home is gone, as it is on another."""
        shutil.rmtree(self.store.copies)

    def depot(self, monkeypatch: pytest.MonkeyPatch) -> Depot:
        for name, value in self.store.environment.items():
            monkeypatch.setenv(name, value)
        return Depot(self.store.home, self.store.copies)


@pytest.fixture
def world(database: Postgresql, tmp_path: Path) -> Iterator[World]:
    (tmp_path / "server").mkdir()
    tracker = MlflowServer(root=tmp_path / "server").start()
    try:
        with running_store() as store:
            yield World(store, tracker, database, Machine(home=tmp_path))
    finally:
        tracker.kill()


def test_a_sweep_goes_on_where_nothing_of_its_machine_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen(
        world.command("run", str(SPACE), *PLAIN),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=world.environment,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(f"trial 1 epoch 2/{EPOCHS}"):
            break
    process.kill()
    process.communicate()
    assert said[-1].startswith(f"trial 1 epoch 2/{EPOCHS}"), "".join(said)
    assert world.machine.wait_until_quiet(60) == []
    state = load_state(world.store.copies / "studies" / "small" / "trials" / "0001", tell=print)
    assert state is not None
    world.lose_machine()

    again = world.sweeps("resume", "small")
    assert "stored in  s3://" in again
    world.lose_machine()
    board = json.loads(world.sweeps("leaderboard", "small", "--format", "json"))
    states = {trial["trial"]: trial["state"] for trial in board["trials"]}
    assert states == {0: "complete", 1: "interrupted", 2: "complete"}
    assert (world.store.copies / "studies" / "small" / "trials" / "0002" / "best").is_dir()
    # The trial that goes on has the epochs of the one that was lost, which it did not train again: no two
    # trainings are as fast to the last digit.
    client = MlflowClient(tracking_uri=world.tracker.uri)
    run = next(trial["run_id"] for trial in board["trials"] if trial["trial"] == 2)
    speed = client.get_metric_history(run, SPEED)
    assert [entry.step for entry in speed] == list(range(1, EPOCHS + 1))
    assert [entry.value for entry in speed][:2] == [epoch[SPEED] for epoch in state["history"]][:2]

    depot = world.depot(monkeypatch)
    study = world.store.copies / "studies" / "small"
    assert depot.size(study / "tune") > 0
    assert "Ray's own notes" in world.sweeps("gc", "small")
    assert depot.size(study / "tune") == 0
    for number in (0, 2):
        assert all("best/" in name for name in depot.names(study / "trials" / f"{number:04d}"))
    assert "passed" in world.sweeps("promote", "small", "--dry-run")


HOLDER = """
import sys, time
from pathlib import Path
from sweeps.home import StudyFolder
from sweeps.study_lock import StudyLock
with StudyFolder(root=Path(sys.argv[1]), lock=StudyLock(url=sys.argv[2], study="one")).driven():
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def driven_elsewhere(root: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    """A driver that has the study's folder at another path, as on another machine."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root), url], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def test_a_study_in_a_store_has_one_driver_on_all_machines(database: Postgresql, tmp_path: Path) -> None:
    here = StudyFolder(root=tmp_path / "here", lock=StudyLock(url=database.url(), study="one"))
    other = StudyFolder(root=tmp_path / "here", lock=StudyLock(url=database.url(), study="other"))
    assert here.read_driver() is None
    with driven_elsewhere(tmp_path / "there", database.url()) as holder:
        assert here.read_driver_pid() == holder.pid
        with (
            pytest.raises(RefusedError, match=f"is being driven by process {holder.pid} since"),
            here.driven(),
        ):
            pass
        with other.driven():
            assert other.read_driver_pid() == os.getpid()
    assert wait_for(lambda: here.read_driver() is None, timeout=30), "PostgreSQL has not seen that it is gone"
    with here.driven():
        assert here.read_driver_pid() == os.getpid()
