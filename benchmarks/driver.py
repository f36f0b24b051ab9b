"""What a trial costs the driver of a sweep, and whether it costs more the more there were before.

A thousand trials that report a formula go through the whole driver: TPE's draws, Ray Tune's loop, Optuna's
database, MLflow's records.
"""

import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from benchmarks.row import Goal, Row

WARM_UP = 10
"""Trials that are not counted: actors start, and packages are imported on first use."""
STRETCHES = 5
"""How many times the first hundred is set against the last, a fifth of each at a time."""
SPACE = """
name: instant
objectives: [{metric: validation/verification_accuracy, direction: maximize}]
base:
  method: {name: synthdistill}
  faces: {name: embedded, size_px: 16}
  training: {epochs: 1, faces_per_epoch: 128}
parameters:
  optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
  method.resampling_coef: {type: float, low: 0.5, high: 2.0, log: true}
  student.name: {type: categorical, choices: [bridge_tiny, mobilefacenet]}
search: {sampler: tpe, num_trials: 1000, seed: 0}
scheduler: {name: none}
"""


def measure(quick: bool) -> list[Row]:
    """One sweep: its trials are the repetitions."""
    num_trials, hundred = (40, 10) if quick else (1_000, 100)
    used_s, in_all_s = _run(num_trials)
    cost_ms = [1000 * (later - earlier) for earlier, later in pairwise(used_s[WARM_UP:])]
    with_end_ms = 1000 * (in_all_s - used_s[WARM_UP]) / len(cost_ms)
    first, last = cost_ms[:hundred], cost_ms[-hundred:]
    return [
        Row(
            name="driver",
            what=f"the driver's processor time a trial, of {num_trials:,} instant trials",
            unit="ms",
            ours=_means(cost_ms, len(cost_ms) // hundred),
            goal=Goal(side="at most", bound=50),
            note=f"one sweep with tpe and MLflow; each value is a mean over {hundred} trials; "
            f"with what is sent, ranked and written after the last, {with_end_ms:.0f} ms",
        ),
        Row(
            name="driver_growth",
            what=f"the driver's processor time a trial, last {hundred}",
            unit="ms",
            ours=_means(last, STRETCHES),
            other=_means(first, STRETCHES),
            against=f"the first {hundred} after {WARM_UP}",
            goal=Goal(side="at most", bound=1.3),
            note="a fifth of each at a time",
        ),
    ]


def _run(num_trials: int) -> tuple[list[float], float]:
    """The driver's processor time at the end of each trial, and at its own end, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        space, notes = Path(folder) / "instant.yaml", Path(folder) / "notes.json"
        space.write_text(SPACE)
        arguments = ["run", str(space), "--trials", str(num_trials), "--home", f"{folder}/home", "--json"]
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.instant_trials", str(notes), *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        if ended.returncode != 0:
            raise RuntimeError(f"the sweep ended with {ended.returncode}: {ended.stderr[-2000:]}")
        *used_s, in_all_s = json.loads(notes.read_text())
    if len(used_s) != num_trials:
        raise RuntimeError(f"{len(used_s)} of {num_trials} trials were complete")
    return used_s, in_all_s


def _means(values: list[float], number: int) -> list[float]:
    """Means over so many equal stretches; what is over at the end is left out."""
    size = len(values) // number
    return [sum(values[start : start + size]) / size for start in range(0, size * number, size)]
