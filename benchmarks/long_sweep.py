"""Whether a long sweep stays as light as it began: memory, open files and processes over its trials.

A real sweep of short trials, in a process of its own; while it runs, all its processes are looked at twice a
second. Printed is the mean over the first and over the last tenth of the trials, after those that warm up.

    python -m benchmarks.long_sweep [--trials 200]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import psutil

POLL_S = 0.5
WARM_UP = 10
"""Trials before the first tenth begins: actors start, teachers load, MLflow and Optuna fill their caches."""
SPACE = """
name: long
objectives: [{metric: validation/verification_accuracy, direction: maximize}]
base:
  faces: {name: embedded, size_px: 16}
  method: {name: synthdistill}
  training: {epochs: 2, faces_per_epoch: 256, batch_size: 64}
parameters:
  optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
  method.resampling_coef: {type: float, low: 0.5, high: 2.0, log: true}
search: {sampler: tpe, num_trials: 200, seed: 0}
scheduler: {name: asha, grace_epochs: 1}
"""


@dataclass(frozen=True)
class Look:
    """All processes of a sweep at one moment.

    Attributes:
        num_trials: That had begun by then.
        memory_mb: Sum of the proportional set sizes: shared pages count once.
        driver_mb: Resident memory of the driver alone.
    """

    num_trials: int
    memory_mb: float
    driver_mb: float
    num_files: int
    num_processes: int


def look(driver: psutil.Process, trials: Path) -> Look:
    """Looks at a sweep's processes."""
    memory, files, count = 0.0, 0, 0
    for process in [driver, *driver.children(recursive=True)]:
        try:
            memory += process.memory_full_info().pss / 2**20
            files += process.num_fds()
            count += 1
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return Look(
        num_trials=len(list(trials.glob("*"))),
        memory_mb=memory,
        driver_mb=driver.memory_info().rss / 2**20,
        num_files=files,
        num_processes=count,
    )


def run(num_trials: int) -> tuple[list[Look], float]:
    """Runs the sweep; returns the looks at it, and how many seconds it took."""
    looks: list[Look] = []
    with tempfile.TemporaryDirectory() as folder:
        space, home = Path(folder) / "long.yaml", Path(folder) / "home"
        space.write_text(SPACE)
        began = time.monotonic()
        command = [Path(sys.executable).parent / "sweeps", "run", space, "--trials", str(num_trials)]
        process = subprocess.Popen(
            [*map(str, command), "--home", str(home)],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                looks.append(look(driver, home / "studies" / "long" / "trials"))
            except psutil.NoSuchProcess:
                break
            time.sleep(POLL_S)
        if process.wait() != 0:
            raise SystemExit(f"the sweep ended with {process.returncode}")
        return looks, time.monotonic() - began


def summary(looks: list[Look], num_trials: int) -> dict[str, dict[str, float]]:
    """The first and the last tenth of the trials, side by side."""
    tenth = max(1, num_trials // 10)
    # The last trials begin while Ray winds up: what is looked at after the last began is not a steady state.
    spans = {"first": (WARM_UP, WARM_UP + tenth), "last": (num_trials - tenth, num_trials - 1)}
    table: dict[str, dict[str, float]] = {}
    for name in ("memory_mb", "driver_mb", "num_files", "num_processes"):
        row = {
            span: mean(getattr(found, name) for found in looks if low <= found.num_trials <= high)
            for span, (low, high) in spans.items()
        }
        table[name] = {**row, "ratio": row["last"] / row["first"]}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    looks, seconds = run(arguments.trials)
    table = summary(looks, arguments.trials)
    if arguments.json:
        print(json.dumps({"trials": arguments.trials, "seconds": seconds, "table": table}, indent=2))
        return
    print(f"{arguments.trials} trials in {seconds:.0f} s, {seconds / arguments.trials:.2f} s a trial")
    for name, row in table.items():
        print(
            f"{name:<14} first tenth {row['first']:9.1f}   last {row['last']:9.1f}   ratio {row['ratio']:.3f}"
        )


if __name__ == "__main__":
    main()
