"""How many short trials a sweep gets through in an hour, against what Ray's guide leads to.

Ours is the product, whole: `sweeps run` with its checks, Optuna's database, MLflow's records, the ranking.
The other way is a Tune function that starts a TorchTrainer with a worker for each trial, with
TuneReportCallback and MLflowLoggerCallback. Both train the same students on the same faces, two at a time, on
one Ray instance that is started before; both MLflow databases exist before. Its rate being constant, the
other way is measured on fewer trials.
"""

import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeps import cluster  # before ray: it sets what Ray reads when it is imported

# isort: split
import ray.train
import ray.tune
import torch
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from benchmarks.row import Goal, Row, in_turns, seconds
from distill.config import TrialConfig
from distill.training import train
from sweeps.home import Home
from sweeps.space import SearchSpace, parse_space
from sweeps.sweep import run_sweep
from sweeps.terminal import sweep_display
from sweeps.tracking import check_tracker

# What `sweeps.cluster` changes for our own trials, as Ray has it.
RAYS_OWN = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2.0", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}
SPACE = """
name: short
objectives: [{metric: validation/verification_accuracy, direction: maximize}]
base:
  method: {name: synthdistill}
  faces: {name: embedded, size_px: 16}
  training: {epochs: 1, faces_per_epoch: 256, batch_size: 64}
parameters:
  optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
search: {sampler: tpe, num_trials: 24, seed: 0}
scheduler: {name: none}
resources: {max_concurrent: 2}
"""


def measure(quick: bool) -> list[Row]:
    """One thread a trial."""
    num_trials, num_usual, repetitions = (2, 2, 1) if quick else (24, 4, 5)
    space = parse_space(SPACE, file="short.yaml", overrides={"search.num_trials": str(num_trials)})
    with tempfile.TemporaryDirectory() as folder, cluster.connected(None) as dashboard:
        home, others = (_home(Path(folder) / name) for name in ("ours", "others"))
        with _already_connected(dashboard):
            ours, other = in_turns(
                lambda: 3600 * num_trials / seconds(lambda: _sweep(space, home)),
                lambda: 3600 * num_usual / seconds(lambda: _usual_sweep(space, others, num_usual)),
                repetitions=repetitions,
            )
    return [
        Row(
            name="trial_overhead",
            what=f"a sweep of {num_trials} short trials in place, recorded in full",
            unit="trials an hour",
            ours=ours,
            other=other,
            against="a TorchTrainer for each trial",
            goal=Goal(side="at least", bound=20),
            note="two at a time, one thread each; an epoch of 256 faces of 16 px and its evaluation; Ray's "
            f"start is left out on both sides; the other way runs {num_usual} trials a repetition",
        )
    ]


def usual_trial(
    task: dict[str, Any], *, config: dict[str, Any], folder: str, storage_path: str, num_workers: int
) -> None:
    """A Tune function as Ray's guide has it: a Train run with workers of its own.

    Args:
        task: The trial's `lr`.
        config: A `TrialConfig` in plain types, for all trials.
        folder: Where trials keep their state.
    """
    os.environ.update(RAYS_OWN)
    trial_id = ray.tune.get_context().get_trial_id()
    optimizer = {**config["optimizer"], "lr": task["lr"]}
    loop_config = {"config": {**config, "optimizer": optimizer}, "directory": f"{folder}/{trial_id}"}
    TorchTrainer(
        _train_loop,
        train_loop_config=loop_config,
        scaling_config=ray.train.ScalingConfig(num_workers=num_workers, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(
            name=str(trial_id), storage_path=storage_path, callbacks=[TuneReportCallback()]
        ),
    ).fit()


def _train_loop(loop_config: dict[str, Any]) -> None:
    """Runs in each of Ray Train's workers, all of which have to report, once the single epoch is over.

    A report without a checkpoint is enough for Tune.
    """
    torch.set_num_threads(1)
    last: dict[str, float] = {}
    train(
        TrialConfig.model_validate(loop_config["config"]),
        report=lambda metrics, checkpoint: last.update(metrics),
        directory=Path(loop_config["directory"]),
    )
    ray.train.report(last)


def _sweep(space: SearchSpace, home: Home) -> None:
    with sweep_display(space, as_json=True) as display:
        result = run_sweep(space, home=home, name=None, address=None, display=display)
    if [row.state for row in result.rows] != ["complete"] * space.search.num_trials:
        raise RuntimeError(f"not every trial of {result.name} completed")


def _usual_sweep(space: SearchSpace, home: Home, num_trials: int) -> None:
    config = space.config(space.first_point())
    storage_path = str(home.root / "tune")
    trainable = functools.partial(
        usual_trial,
        config=config.model_dump(mode="json"),
        folder=str(home.root),
        storage_path=storage_path,
        num_workers=1,
    )
    results = ray.tune.Tuner(
        # CPUs that the driver of each trial took would not fit beside two workers: a byte of memory does.
        ray.tune.with_resources(trainable, {"memory": 1}),
        param_space={"lr": ray.tune.loguniform(1e-4, 1e-2)},
        tune_config=ray.tune.TuneConfig(num_samples=num_trials, max_concurrent_trials=2),
        run_config=ray.tune.RunConfig(
            storage_path=storage_path,
            verbose=0,
            callbacks=[MLflowLoggerCallback(tracking_uri=home.tracking_uri, experiment_name="usual")],
        ),
    ).fit()
    if results.errors or len(results) != num_trials:
        raise RuntimeError(f"{len(results.errors)} of {num_trials} trials failed: {results.errors[:1]}")


def _home(root: Path) -> Home:
    """A home whose MLflow database exists: making it takes many seconds, once."""
    home = Home.at(str(root), f"sqlite:///{root}/mlflow.db", f"sqlite:///{root}/optuna.db")
    home.ensure()
    check_tracker(home)
    return home


@contextmanager
def _already_connected(dashboard: str) -> Iterator[None]:
    """Lets sweeps run on the Ray instance that this process is connected to, in place of one of their own."""

    @contextmanager
    def connected(address: str | None) -> Iterator[str]:
        yield dashboard

    starts = cluster.connected
    cluster.connected = connected
    try:
        yield
    finally:
        cluster.connected = starts
