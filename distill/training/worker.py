"""The seam to Ray Train: what runs in each of a trial's workers, be it this process or one of many."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train.torch
import torch

from distill.config import TrialConfig
from distill.losses.gather import worker_rank
from distill.training.loop import Report, train
from distill.training.memory import keep_freed_memory
from distill.training.timeout import time_limit


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """One trial, as a worker is told of it.

    Attributes:
        config: A `TrialConfig` in plain types.
        directory: Where the trial's state and its best student are kept.
        continue_from: Another trial's directory, whose state is taken over.
        told_epochs: How many epochs were heard of before, see `train`.
        num_threads: CPU threads of this worker.
        num_workers: Ray Train workers of the trial; 0 when it trains in the caller's process.
        report: Told every epoch.
        cache: Where the teacher's embeddings are kept for all trials; None keeps them in memory.
        accumulation: How many times the config's portions each batch is trained in.
        timeout_s: How long the training may take, in seconds, before its processes end themselves.
    """

    config: dict[str, Any]
    directory: Path
    continue_from: Path | None
    told_epochs: int | None
    num_threads: int
    num_workers: int
    report: Report
    cache: Path | None = None
    accumulation: int = 1
    timeout_s: float | None = None


def train_worker(loop_config: dict[str, Any]) -> None:
    """Runs one trial's training in a Ray Train worker.

    With no workers of its own (`num_workers=0`) Ray Train calls this inside the caller's process, where
    Ray's per-worker functions must not be used: the device is then whatever the process sees.

    Args:
        loop_config: `{"task": WorkerTask}`: Ray hands a mapping on.
    """
    task: WorkerTask = loop_config["task"]
    # One thread a core that was given: more of them only take turns, and cost more than they bring.
    torch.set_num_threads(task.num_threads)
    keep_freed_memory()
    if task.num_workers > 0 and torch.cuda.is_available():
        torch.cuda.set_device(ray.train.torch.get_device())
    config = TrialConfig.model_validate(task.config)
    portions = config.training.accumulation * task.accumulation
    training = config.training.model_copy(update={"accumulation": portions})
    config = config.model_copy(update={"training": training})
    with time_limit(task.directory, task.timeout_s, rank=worker_rank()):
        train(
            config,
            report=task.report,
            directory=task.directory,
            continue_from=task.continue_from,
            told_epochs=task.told_epochs,
            cache=task.cache,
        )
