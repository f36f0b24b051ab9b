"""One trial, as Tune hands it to whoever trains it."""

from pathlib import Path
from typing import Any, TypedDict

from distill.training import Report
from distill.training.worker import WorkerTask
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


def loop_config(
    task: TrialTask, *, num_threads: int, num_workers: int, report: Report, cache: Path | None
) -> dict[str, Any]:
    """What Ray Train hands to `train_worker` in each worker.

    Args:
        num_workers: 0 for a training in the caller's process.
    """
    worker_task = WorkerTask(
        config=task["config"],
        directory=Path(task["directory"]),
        continue_from=Path(task["continue_from"]) if task["continue_from"] else None,
        told_epochs=task["told_epochs"],
        num_threads=num_threads,
        num_workers=num_workers,
        report=report,
        cache=cache,
        accumulation=task["accumulation"],
        timeout_s=task["timeout_s"],
    )
    return {"task": worker_task}
