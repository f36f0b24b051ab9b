"""The `sweeps` command with trainings that misbehave, each trial in its way; what is not here is real.

Trial 0 trains. 1 diverges. 2 runs out of memory once, when it trains whole batches, and trains in portions
then. 3 runs out of memory whatever is tried. 4 hangs.
"""

import sys
import time
from pathlib import Path
from typing import Any

from sweeps import cluster  # first: it sets what Ray reads when it is imported

# isort: split
import ray.tune

import distill.training.worker
import sweeps.sweep
from distill.errors import DivergenceError
from sweeps.cli import main
from sweeps.space import ResourcesSettings
from sweeps.trial import run_in_place

assert cluster


def misbehave(task: Any, *, num_threads: int, cache: Path | None, **others: Any) -> None:
    """A Tune function in place of `run_in_place`."""
    if task["number"] == 1:
        raise DivergenceError("train/loss is nan: the training diverged")
    if task["number"] == 3 or (task["number"] == 2 and task["accumulation"] == 1):
        raise MemoryError("there is none left")
    if task["number"] == 4:
        distill.training.worker.train = hang  # in this actor, which the time-out ends
    run_in_place(task, num_threads=num_threads, cache=cache, **others)


def hang(*arguments: Any, **options: Any) -> None:
    """In place of `train`."""
    time.sleep(3600)


def stand_in(
    resources: ResourcesSettings, *, storage_path: str, cache: Path | None = None, **others: Any
) -> Any:
    """What the sweep runs for each trial."""
    function = ray.tune.with_parameters(misbehave, num_threads=resources.num_threads, cache=cache, depot=None)
    return ray.tune.with_resources(function, resources.per_worker())


if __name__ == "__main__":
    sweeps.sweep.trainable = stand_in
    sys.exit(main())
