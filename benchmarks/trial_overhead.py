"""What a trial costs beside its training: in place, against a TorchTrainer of its own inside a Tune function.

Both ways run the same training function, which trains nothing and reports three epochs, on the same Ray
instance, two at a time, one after the other in one run. Run it with nothing else on the machine:

    python -m benchmarks.trial_overhead [--trials 6] [--json]
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from typing import Any

from sweeps import cluster

# isort: split
import ray
import ray.train
import ray.tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

EPOCHS = 3


def report_in_place(task: dict[str, Any]) -> None:
    """Reports to Tune, in whose actor this runs."""
    for epoch in range(1, EPOCHS + 1):
        ray.tune.report({"epoch": epoch, "value": 1.0})


def report_from_worker(task: dict[str, Any]) -> None:
    """Reports to Ray Train, whose worker this runs in. A report without a checkpoint is enough for Tune."""
    for epoch in range(1, EPOCHS + 1):
        ray.train.report({"epoch": epoch, "value": 1.0})


def in_place(task: dict[str, Any]) -> None:
    """A Tune function as `sweeps.trial` has it: Ray Train inside the trial's own actor."""
    TorchTrainer(
        report_in_place, train_loop_config=task, scaling_config=ray.train.ScalingConfig(num_workers=0)
    ).fit()


def usual(task: dict[str, Any], *, storage_path: str) -> None:
    """A Tune function as Ray's guide has it: a Train run with a worker of its own."""
    TorchTrainer(
        report_from_worker,
        train_loop_config=task,
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(
            name=ray.tune.get_context().get_trial_id(),
            storage_path=storage_path,
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def seconds_a_trial(trainable: Any, *, num_trials: int, reuse_actors: bool, storage_path: str) -> float:
    """Wall-clock seconds of `Tuner.fit()` over the number of trials, two at a time."""
    began = time.perf_counter()
    results = ray.tune.Tuner(
        trainable,
        param_space={"number": ray.tune.grid_search(list(range(num_trials)))},
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=2, reuse_actors=reuse_actors),
        run_config=ray.tune.RunConfig(storage_path=storage_path, verbose=0),
    ).fit()
    seconds = time.perf_counter() - began
    if results.errors or len(results) != num_trials:
        raise RuntimeError(f"{len(results.errors)} of {num_trials} trials failed: {results.errors[:1]}")
    return seconds / num_trials


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    ways: dict[str, list[float]] = {"in_place": [], "usual": []}
    with cluster.connected(None), tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.repeats):
            ways["in_place"].append(
                seconds_a_trial(
                    ray.tune.with_resources(in_place, {"CPU": 1}),
                    num_trials=arguments.trials,
                    reuse_actors=True,
                    storage_path=folder,
                )
            )
            # 0.01 CPU for the driver of each trial would not fit beside two workers: a byte of memory does.
            ways["usual"].append(
                seconds_a_trial(
                    ray.tune.with_resources(functools.partial(usual, storage_path=folder), {"memory": 1}),
                    num_trials=arguments.trials,
                    reuse_actors=False,
                    storage_path=folder,
                )
            )
    medians = {way: statistics.median(seconds) for way, seconds in ways.items()}
    document = {
        "seconds_a_trial": medians,
        "usual_over_in_place": medians["usual"] / medians["in_place"],
        "trials": arguments.trials,
        "repeats": arguments.repeats,
    }
    if arguments.json:
        print(json.dumps(document))
        return
    print(f"in place  {medians['in_place']:6.2f} s a trial")
    print(f"usual     {medians['usual']:6.2f} s a trial")
    print(f"ratio     {document['usual_over_in_place']:6.1f}")


if __name__ == "__main__":
    main()
