"""How long a trial of two workers takes to its first step, against what Ray's guide leads to.

Both run in Tune, on one Ray instance that is started before, and train the same student. An epoch is one
step, so that the state that is saved after it tells when that step was done; both sides evaluate and save in
between. What follows, until the workers are gone, is not counted.
"""

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeps import cluster  # before ray: it sets what Ray reads when it is imported

# isort: split
import ray.tune

from benchmarks.row import Goal, Row, in_turns
from benchmarks.trial_overhead import usual_trial
from distill.config import TrialConfig
from sweeps.space import ResourcesSettings
from sweeps.task import TrialTask
from sweeps.trial import trainable

NUM_WORKERS = 2
CONFIG = TrialConfig.model_validate(
    {
        "method": {"name": "synthdistill"},
        "faces": {"name": "embedded", "size_px": 16},
        "training": {"epochs": 1, "faces_per_epoch": 128, "batch_size": 128},
    }
).model_dump(mode="json")


def measure(quick: bool) -> list[Row]:
    """Two workers of one thread each."""
    with tempfile.TemporaryDirectory() as folder, cluster.connected(None):
        ours, other = in_turns(
            lambda: _seconds_to_first_step(_ours, Path(tempfile.mkdtemp(dir=folder))),
            lambda: _seconds_to_first_step(_usual, Path(tempfile.mkdtemp(dir=folder))),
            repetitions=1 if quick else 5,
        )
    return [
        Row(
            name="distributed_start",
            what=f"a distributed trial's start ({NUM_WORKERS} workers) to its first step",
            unit="s",
            ours=ours,
            other=other,
            against="a TorchTrainer in a Tune function",
            goal=Goal(side="at most", bound=0.6),
            note="one thread a worker; both sides evaluate and save the step; Ray's own start is left out",
        )
    ]


def _seconds_to_first_step(run: Callable[[Path], None], folder: Path) -> float:
    began = time.time()
    run(folder)
    # The folder of the trial holds nothing else that is written so late.
    return max(path.stat().st_mtime for path in (folder / "trial").rglob("*.pt")) - began


def _ours(folder: Path) -> None:
    task = TrialTask(
        number=0,
        config=CONFIG,
        directory=str(folder / "trial"),
        continue_from=None,
        accumulation=1,
        timeout_s=None,
        spared=False,
        point={},
    )
    resources = ResourcesSettings(workers_per_trial=NUM_WORKERS)
    _tune(trainable(resources, storage_path=str(folder)), dict(task), folder)


def _usual(folder: Path) -> None:
    function = functools.partial(
        usual_trial,
        config=CONFIG,
        folder=str(folder / "trial"),
        storage_path=str(folder),
        num_workers=NUM_WORKERS,
    )
    _tune(ray.tune.with_resources(function, {"memory": 1}), {"lr": 1e-3}, folder)


def _tune(trainable: Any, task: dict[str, Any], folder: Path) -> None:
    results = ray.tune.Tuner(
        trainable, param_space=task, run_config=ray.tune.RunConfig(storage_path=str(folder), verbose=0)
    ).fit()
    if results.errors:
        raise RuntimeError(f"the trial failed: {results.errors[0]}")
