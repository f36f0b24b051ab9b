"""How long it takes from one trial of two workers to the first step of the next, against what Ray's guide
leads to.

Both run in Tune, on one Ray instance that is started before, and train the same student, one trial after the
other. An epoch is one step, so that the state that is saved after it tells when that step was done; both
sides evaluate and save in between. What ends the trial before is counted too: its workers make room.
"""

import functools
import tempfile
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
            what=f"a distributed trial's start ({NUM_WORKERS} workers) to its first step, after another",
            unit="s",
            ours=ours,
            other=other,
            against="a TorchTrainer in a Tune function",
            goal=Goal(side="at most", bound=0.6),
            note="one thread a worker; both sides evaluate and save the step; from the last state of "
            "the trial before",
        )
    ]


def _seconds_to_first_step(run: Callable[[Path], None], folder: Path) -> float:
    run(folder)
    # The folder of a trial holds nothing else that is written so late.
    before, after = sorted(
        max(path.stat().st_mtime for path in trial.rglob("*.pt")) for trial in (folder / "trials").iterdir()
    )
    return after - before


def _ours(folder: Path) -> None:
    tasks = [
        TrialTask(
            number=number,
            config=CONFIG,
            directory=str(folder / "trials" / str(number)),
            continue_from=None,
            told_epochs=0,
            accumulation=1,
            timeout_s=None,
            spared=False,
            point={},
        )
        for number in range(2)
    ]
    resources = ResourcesSettings(workers_per_trial=NUM_WORKERS)
    _tune(
        trainable(resources, storage_path=str(folder)), ray.tune.grid_search(tasks), folder, reuse_actors=True
    )


def _usual(folder: Path) -> None:
    function = functools.partial(
        usual_trial,
        config=CONFIG,
        folder=str(folder / "trials"),
        storage_path=str(folder),
        num_workers=NUM_WORKERS,
    )
    rates = {"lr": ray.tune.grid_search([1e-3, 2e-3])}
    # Its guide's trials cannot share an actor.
    _tune(ray.tune.with_resources(function, {"memory": 1}), rates, folder, reuse_actors=False)


def _tune(trainable: Any, space: dict[str, Any], folder: Path, *, reuse_actors: bool) -> None:
    results = ray.tune.Tuner(
        trainable,
        param_space=space,
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=1, reuse_actors=reuse_actors),
        run_config=ray.tune.RunConfig(storage_path=str(folder), verbose=0),
    ).fit()
    if results.errors or len(results) != 2:
        raise RuntimeError(f"{len(results.errors)} of 2 trials failed: {results.errors[:1]}")
