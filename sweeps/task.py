"""One trial, as Tune hands it to whoever trains it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from distill.training import Report
from distill.training.worker import WorkerTask, train_worker
from sweeps.depot import Depot, students
from sweeps.space.parameters import Scalar


class TrialTask(TypedDict):
    """What Tune hands to a trial.

    Attributes:
        number: Optuna's.
        config: A `TrialConfig` in plain types.
        directory: Where its state and its best student are kept.
        continue_from: Another trial's directory, whose state is taken over.
        told_epochs: How many of its epochs the ledger has heard of; None: of all.
        accumulation: How many times the config's portions each batch is trained in, where memory is short.
        timeout_s: How long it may run, in seconds.
        spared: Whether no scheduler may stop it: it trains a point again, with a further seed.
        point: The space's parameters, by dotted name.
    """

    number: int
    config: dict[str, Any]
    directory: str
    continue_from: str | None
    told_epochs: int | None
    accumulation: int
    timeout_s: float | None
    spared: bool
    point: dict[str, Scalar]


@contextmanager
def on_copies(depot: Depot | None, task: TrialTask) -> Iterator[None]:
    """Has what a trial needs of its home on this machine, and leaves nothing of it there.

    Args:
        depot: None where the machines of the home share it.
    """
    if depot is None:
        yield
        return
    directory = Path(task["directory"])
    depot.pull(directory)
    if task["continue_from"] is not None:
        depot.pull(Path(task["continue_from"]))
    teacher = Path(task["config"]["teacher"].get("folder") or "/")  # maybe a student of the home
    if teacher.is_relative_to(depot.root):
        depot.pull(teacher.parent, students)
    try:
        yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def handing_on(depot: Depot | None, report: Report) -> Report:
    """Reports an epoch once what it left is where another machine finds it."""

    def hand_on(metrics: dict[str, float], checkpoint: Path) -> None:
        if depot is not None:
            depot.push(checkpoint)
        report(metrics, checkpoint)

    return hand_on


def train_on_copies(loop_config: dict[str, Any]) -> None:
    """`train_worker`, in a worker on any machine.

    Args:
        loop_config: What `train_worker` takes, and `trial`, a `TrialTask`, and `depot`.
    """
    with on_copies(loop_config["depot"], loop_config["trial"]):
        train_worker(loop_config)


def loop_config(
    task: TrialTask,
    *,
    num_threads: int,
    num_workers: int,
    report: Report,
    cache: Path | None,
    depot: Depot | None,
) -> dict[str, Any]:
    """What Ray Train hands to `train_worker`, or `train_on_copies`, in each worker.

    Args:
        num_workers: 0 for a training in the caller's process.
        depot: Hands what an epoch left on to other machines; None where they share the home.
    """
    worker_task = WorkerTask(
        config=task["config"],
        directory=Path(task["directory"]),
        continue_from=Path(task["continue_from"]) if task["continue_from"] else None,
        told_epochs=task["told_epochs"],
        num_threads=num_threads,
        num_workers=num_workers,
        report=handing_on(depot, report),
        cache=cache,
        accumulation=task["accumulation"],
        timeout_s=task["timeout_s"],
    )
    return {"task": worker_task, "trial": task, "depot": depot}
