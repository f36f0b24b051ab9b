"""Trials whose processes are lost, that raise or that are stopped: Tune hears why, at once, and the next one
is as if nothing had happened."""

import os
import pickle
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from distill.checkpoint import load_state, load_student
from distill.config import TrialConfig
from distill.errors import DivergenceError
from distill.training import read_timeout
from sweeps import cluster
from sweeps.distributed import LostWorkerError, free_workers
from sweeps.space import ResourcesSettings
from sweeps.task import TrialTask
from sweeps.trial import MemoryKillError, trainable

# isort: split
import ray
import ray.tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayTaskError
from ray.tune.search import Searcher
from ray.util import placement_group_table

pytestmark = pytest.mark.slow

EPOCHS = 3
FIRST = 9
CONFIG = TrialConfig.model_validate(
    {
        "faces": {"name": "embedded", "size_px": 16},
        "training": {"epochs": EPOCHS, "faces_per_epoch": 64, "batch_size": 32},
    }
)
DIVERGES = CONFIG.model_copy(update={"optimizer": CONFIG.optimizer.model_copy(update={"lr": 1e30})})
ENDLESS = CONFIG.model_copy(update={"training": CONFIG.training.model_copy(update={"epochs": 1_000_000})})


@dataclass
class Watch(ray.tune.Callback):
    """Kills what it is told to after a trial's first epoch, and remembers what Tune says of each trial.

    Attributes:
        kill: A part of the name of the process to kill, by trial.
        epochs: The epochs that were reported, by trial.
        pids: The processes of the trials' actors.
        errors: What ended a trial, and how many seconds after its process was killed.
    """

    kill: dict[int, str] = field(default_factory=dict)
    epochs: dict[int, list[int]] = field(default_factory=dict)
    pids: dict[int, set[int]] = field(default_factory=dict)
    errors: dict[int, tuple[BaseException, float]] = field(default_factory=dict)
    _killed: float = 0.0

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        number = trial.config["number"]
        self.epochs.setdefault(number, []).append(int(result["epoch"]))
        self.pids.setdefault(number, set()).add(result["pid"])
        if name := self.kill.pop(number, None):
            self._killed = time.monotonic()
            os.kill(_process(name), signal.SIGKILL)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        error = pickle.loads(Path(trial.pickled_error_file).read_bytes())
        self.errors[trial.config["number"]] = (error, time.monotonic() - self._killed)
        free_workers(Path(trial.config["directory"]))

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _process(name: str) -> int:
    """The first of this process's own whose title holds a name."""
    for process in psutil.Process().children(recursive=True):
        try:
            if name in " ".join(process.cmdline()):
                return process.pid
        except psutil.Error:
            continue
    raise AssertionError(f"no process is named {name}")


def task(
    folder: Path, number: int, config: TrialConfig = CONFIG, *, timeout_s: float | None = None
) -> TrialTask:
    return {
        "number": number,
        "config": config.model_dump(mode="json"),
        "directory": str(folder / f"{number}"),
        "continue_from": None,
        "told_epochs": None,  # Tune itself begins it again, and has heard of all
        "accumulation": 1,
        "timeout_s": timeout_s,
        "spared": False,
        "point": {},
    }


def fit(
    folder: Path,
    tasks: list[TrialTask],
    *,
    workers: int,
    kill: dict[int, str] | None = None,
    stop: dict[int, int] | None = None,
) -> Watch:
    """Runs trials one by one.

    Args:
        stop: The epoch after which Tune stops a trial, by its number.
    """
    watch = Watch(kill=kill or {})
    stop = stop or {}
    resources = ResourcesSettings(workers_per_trial=workers)
    ray.tune.Tuner(
        trainable(resources, storage_path=str(folder / "tune")),
        param_space=ray.tune.grid_search(tasks),
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True),
        run_config=ray.tune.RunConfig(
            name="trials",
            storage_path=str(folder / "tune"),
            verbose=0,
            callbacks=[watch],
            stop=lambda _, result: result["epoch"] == stop.get(result["config"]["number"]),
        ),
    ).fit()
    return watch


class TwoAtOnce(Searcher):
    """Hands out tasks as a sweep's searcher does, while fewer than two are open."""

    def __init__(self, tasks: list[TrialTask]):
        super().__init__()
        self._tasks, self._num_open = tasks, 0

    def suggest(self, trial_id: str) -> Any:
        if not self._tasks:
            return Searcher.FINISHED
        if self._num_open == 2:
            return None
        self._num_open += 1
        return self._tasks.pop(0)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self._num_open -= 1

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


def assert_all_is_free_again() -> None:
    deadline = time.monotonic() + 30
    while (left := _taken()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []


def _taken() -> list[str]:
    groups = [f"group {key}" for key, g in placement_group_table().items() if g["state"] != "REMOVED"]
    free, total = ray.available_resources().get("CPU", 0.0), ray.cluster_resources()["CPU"]
    return groups + ([] if free == total else [f"{total - free:g} CPUs"])


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Iterator[None]:
    with cluster.connected(None):
        yield


@pytest.fixture(scope="module")
def in_place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watch]:
    """One that is well, one that diverges, one whose actor is killed, that one again, one that hangs, and one
    that is well."""
    folder = tmp_path_factory.mktemp("in_place")
    tasks = [
        task(folder, FIRST),
        task(folder, 0, DIVERGES),
        task(folder, 1),
        task(folder, 1),
        task(folder, 2, ENDLESS, timeout_s=8.0),
        task(folder, 3),
    ]
    return folder, fit(folder, tasks, workers=1, kill={1: "ImplicitFunc"})


def test_a_killed_actor_is_heard_of_at_once_and_costs_no_epoch(in_place: tuple[Path, Watch]) -> None:
    _, watch = in_place
    error, seconds = watch.errors[1]
    assert isinstance(error, ActorDiedError)
    assert seconds < 10
    assert watch.epochs[1] == [1, 2, 3]
    assert len(watch.pids[1]) == 2


def test_a_trial_that_hangs_ends_and_says_where_it_was(in_place: tuple[Path, Watch]) -> None:
    folder, watch = in_place
    assert isinstance(watch.errors[2][0], ActorDiedError)
    stack = read_timeout(folder / "2")
    assert stack is not None
    assert stack.startswith("Timeout")
    assert all(read_timeout(folder / f"{number}") is None for number in (FIRST, 0, 1, 3))


def test_the_trial_after_others_failed_is_as_if_it_were_the_first(in_place: tuple[Path, Watch]) -> None:
    """Tune never gives an actor in which a trial raised to another."""
    folder, watch = in_place
    assert set(watch.errors) == {0, 1, 2}
    error, _ = watch.errors[0]
    assert isinstance(error, RayTaskError)
    assert isinstance(error.cause, DivergenceError)
    assert all(watch.pids[3].isdisjoint(watch.pids[number]) for number in (1, 2))
    first, last = (load_student(folder / f"{number}" / "best")[0].state_dict() for number in (FIRST, 3))
    assert all(bool((first[name] == last[name]).all()) for name in first)
    assert_all_is_free_again()


def test_killed_processes_of_a_distributed_trial_are_heard_of_at_once_and_cost_no_epoch(
    tmp_path: Path,
) -> None:
    """First a worker, then the actor that holds the workers, which then frees nothing."""
    tasks = [task(tmp_path, number) for number in (0, 0, 1, 1)]
    watch = fit(tmp_path, tasks, workers=2, kill={0: "RayTrainWorker", 1: "DistributedTrial"})
    error, seconds = watch.errors[0]
    assert isinstance(error, RayTaskError)
    assert isinstance(error.cause, LostWorkerError)
    assert "a training worker is lost: " in str(error)
    assert seconds < 30
    error, seconds = watch.errors[1]
    assert isinstance(error, ActorDiedError)
    assert seconds < 10
    for number in (0, 1):
        epochs = watch.epochs[number]
        # Between an epoch's report and the kill the next may have ended, whose report then never came.
        assert epochs[-1] == EPOCHS
        assert len(epochs) == len(set(epochs)) >= EPOCHS - 1
    assert_all_is_free_again()


def test_a_distributed_trial_that_is_stopped_ends_at_once_and_leaves_its_actor_to_the_next(
    tmp_path: Path,
) -> None:
    tasks = [task(tmp_path, 0, ENDLESS), task(tmp_path, 1), task(tmp_path, 2)]
    watch = fit(tmp_path, tasks, workers=2, stop={0: 2})
    assert watch.errors == {}
    assert watch.epochs == {0: [1, 2], 1: [1, 2, 3], 2: [1, 2, 3]}
    assert len(set.union(*watch.pids.values())) == 1
    # The stopped one was ahead of its reports by the one that waited and the one that followed.
    state = load_state(tmp_path / "0", tell=pytest.fail)
    assert state is not None
    assert state["step"] // ENDLESS.training.steps_per_epoch <= 4
    assert_all_is_free_again()


def test_trials_shorter_than_the_start_of_an_actor_run_two_at_once(tmp_path: Path) -> None:
    watch = Watch()
    ray.tune.Tuner(
        trainable(ResourcesSettings(), storage_path=str(tmp_path / "tune")),
        tune_config=ray.tune.TuneConfig(
            search_alg=TwoAtOnce([task(tmp_path, number) for number in range(8)]),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=ray.tune.RunConfig(
            name="trials", storage_path=str(tmp_path / "tune"), verbose=0, callbacks=[watch]
        ),
    ).fit()
    assert sorted(watch.epochs) == list(range(8))
    assert len(set.union(*watch.pids.values())) == 2


def test_an_actor_that_ray_ends_for_its_memory_fails_its_trial_alone() -> None:
    heard: list[Exception] = []
    actor = SimpleNamespace(actor_id=0, _on_error=lambda actor, error: heard.append(error))
    known = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    failed = SimpleNamespace(_tracked_actor=actor, _on_error=None)
    error = OutOfMemoryError("1 worker(s) were killed due to the node running low on memory.\nMore of it.")
    RayActorManager._actor_task_failed(cast(Any, known), cast(Any, failed), error)
    (told,) = heard
    assert isinstance(told, MemoryKillError)
    assert isinstance(told, RayActorError)
    assert isinstance(told, OutOfMemoryError)
    assert str(pickle.loads(pickle.dumps(told))) == str(error).splitlines()[0]
