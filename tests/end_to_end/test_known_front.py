"""Conditions, constraints, several objectives, repeats and confirmations lead to the front that is known."""

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.end_to_end.known_problem import values
from tests.end_to_end.machine import RayHead
from tests.end_to_end.mlflow_server import empty_database

pytestmark = pytest.mark.slow

MODULE = "tests.end_to_end.known_problem"
ACCURACY, LOSS = "validation/verification_accuracy", "train/loss"
SPACE = """
name: known
objectives:
  - {metric: validation/verification_accuracy, direction: maximize}
  - {metric: train/loss, direction: minimize}
base:
  faces: {name: embedded, size_px: 16}
  training: {epochs: 1, faces_per_epoch: 256, batch_size: 64}
scheduler: {name: none}
resources: {cpus_per_worker: 0.5}
"""
GRID = """
parameters:
  student.name: {type: categorical, choices: [bridge_tiny, mobilefacenet]}
  student.width: {type: float, low: 0.25, high: 0.5, step: 0.25, when: {student.name: mobilefacenet}}
  losses.cosine.weight: {type: float, low: 0.1, high: 1.1, step: 0.2}
  losses.raw_mse.weight: {type: float, low: 0.1, high: 0.5, step: 0.4}
"""


def sweep(folder: Path, space: str, head: RayHead, *overrides: str) -> dict[str, Any]:
    """Runs a space over the known problem; returns its document."""
    changes = [argument for override in overrides for argument in ("--set", override)]
    file = folder / "known.yaml"
    file.write_text(SPACE + space)
    empty_database(folder / "home" / "mlflow.db")  # to make its tables takes longer than most of these sweeps
    done = subprocess.run(
        [sys.executable, "-m", MODULE, "run", str(file), "--home", str(folder / "home"), "--json", *changes],
        env={**os.environ, **head.environment, "RAY_ADDRESS": head.address},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def front(document: dict[str, Any]) -> set[tuple[float, float, bool]]:
    """The points that no other surpasses, by x, y and whether they are mobile."""
    found = set()
    for trial in document["trials"]:
        if trial["standing"] and trial["standing"]["front"] == 0:
            point = trial["parameters"]
            xy = (round(point["losses.cosine.weight"], 3), round(point["losses.raw_mse.weight"], 3))
            found.add((*xy, point["student.name"] == "mobilefacenet"))
    return found


def true_front(points: set[tuple[float, float, bool]]) -> set[tuple[float, float, bool]]:
    """Naively: those that none surpasses in both."""
    worth = {point: values(point[0], point[1], mobile=point[2]) for point in points}
    return {
        point
        for point, (accuracy, loss) in worth.items()
        if not any(a >= accuracy and b <= loss and (a, b) != (accuracy, loss) for a, b in worth.values())
    }


def test_a_repeated_conditional_grid_gives_the_true_front_though_single_seeds_deceive(
    tmp_path: Path, ray_head: RayHead
) -> None:
    xs, ys = [round(0.1 + 0.2 * n, 3) for n in range(6)], [0.1, 0.5]
    document = sweep(tmp_path, GRID + "search: {sampler: grid, num_trials: 36, repeats: 2}", ray_head)
    # 6 x 2 points of one student, and of two widths of the other; each with two seeds.
    assert len(document["trials"]) == 2 * 36
    expected = true_front({(x, y, mobile) for x in xs for y in ys for mobile in (False, True)})
    assert expected == {(x, 0.1, False) for x in xs if x <= 1.0}
    assert front(document) == expected
    deceived = {
        (trial["values"][0], trial["values"][1])
        for trial in document["trials"]
        if trial["seed_offset"] == 0 and trial["state"] == "complete"
    }
    alone = {p for p in deceived if not any(q[0] >= p[0] and q[1] <= p[1] and q != p for q in deceived)}
    assert len(alone) < len(expected)


def test_constraints_cut_the_front(tmp_path: Path, ray_head: RayHead) -> None:
    constraints = f"""
constraints:
  - {{metric: {LOSS}, at_most: 0.3}}
  - {{metric: efficiency/parameters, at_most: 300000}}
"""
    document = sweep(
        tmp_path, GRID + constraints + "search: {sampler: grid, num_trials: 36, repeats: 2}", ray_head
    )
    trials = document["trials"]
    mobile = [t for t in trials if t["parameters"]["student.name"] == "mobilefacenet"]
    assert {t["state"] for t in mobile} == {"infeasible"}
    assert front(document) == {(x, 0.1, False) for x in (0.5, 0.7, 0.9)}


@pytest.mark.parametrize(
    # Of nsgaii ten points are a generation, and the first few are all but random.
    ("sampler", "num_trials", "height"),
    [("nsgaii", 100, 0.35), ("tpe", 40, 0.35), ("gp", 40, 0.35)],
)
def test_samplers_come_near_the_front(
    tmp_path: Path, ray_head: RayHead, sampler: str, num_trials: int, height: float
) -> None:
    parameters = """
parameters:
  losses.cosine.weight: {type: float, low: 0.01, high: 2.0}
  losses.raw_mse.weight: {type: float, low: 0.01, high: 2.0}
"""
    search = f"search: {{sampler: {sampler}, num_trials: {num_trials}, seed: 3, startup_trials: 10}}"
    # One at a time: which of two ends first is chance, and what is drawn next depends on it.
    one = "resources.max_concurrent=1"
    document = sweep(tmp_path, parameters + "constraints: []\n" + search, ray_head, one)
    best = [t for t in document["trials"] if t["standing"] and t["standing"]["front"] == 0]
    # On the front y is 0; a point drawn at random has y = 1 on average.
    heights = [t["parameters"]["losses.raw_mse.weight"] for t in best]
    assert len(best) >= 4
    assert sorted(heights)[len(heights) // 2] < height


def test_the_winner_is_confirmed_with_fresh_seeds_and_a_lucky_one_falls_back(
    tmp_path: Path, ray_head: RayHead
) -> None:
    # With seed 0 alone x = 0.5, which wobbles most, stands above x = 0.3.
    space = """
parameters:
  losses.cosine.weight: {type: categorical, choices: [0.3, 0.4, 0.5, 0.6]}
  losses.raw_mse.weight: {type: categorical, choices: [0.1]}
search: {sampler: grid, num_trials: 4}
confirm: {top: 4, seeds: 2}
"""
    document = sweep(tmp_path, space, ray_head)
    by_first_seed = [t for t in document["trials"] if t["seed_offset"] == 0]
    lucky = max(by_first_seed, key=lambda trial: trial["values"][0])
    assert lucky["parameters"]["losses.cosine.weight"] == 0.5
    confirmed = {t["parameters"]["losses.cosine.weight"]: t["standing"] for t in by_first_seed}
    assert all(standing["is_confirmed"] and standing["num_seeds"] == 2 for standing in confirmed.values())
    for x, standing in confirmed.items():
        assert standing["mean"] == pytest.approx(values(x, 0.1, mobile=False))
    winner = min(by_first_seed, key=lambda trial: trial["standing"]["place"])
    assert winner["parameters"]["losses.cosine.weight"] == 0.3


def test_the_first_budget_that_is_met_ends_the_sweep_and_is_named(tmp_path: Path, ray_head: RayHead) -> None:
    space = GRID + "search: {sampler: random, num_trials: 200, seed: 1}\nbudget: {target: 1.0, hours: 5.0}"
    document = sweep(tmp_path, space, ray_head)
    study = optuna.load_study(study_name="known", storage=f"sqlite:///{tmp_path / 'home' / 'optuna.db'}")
    ended = sorted(study.trials, key=lambda trial: trial.datetime_complete or datetime.max)
    first = next(trial.number for trial in ended if trial.values[0] >= 1.0)
    assert document["ended"] == f"trial {first} reached budget.target (1)"
    assert len(document["trials"]) < 200
    assert all(trial["state"] == "complete" for trial in document["trials"])
