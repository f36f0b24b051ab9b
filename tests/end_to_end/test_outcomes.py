"""Trials that do not complete: infeasible before they cost anything, and failed with their reason."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.end_to_end.machine import Machine

pytestmark = pytest.mark.slow

SPACE = """
name: outcomes
objectives: [{metric: validation/verification_accuracy, direction: maximize}]
constraints: [{metric: efficiency/parameters, at_most: 300000}]
base:
  faces: {name: embedded, size_px: 16}
  training: {epochs: 1, faces_per_epoch: 256, batch_size: 64}
parameters:
  student.name: {type: categorical, choices: [bridge_tiny, mobilefacenet]}
  optimizer.lr: {type: categorical, choices: [1e-3, 1e30]}
search: {sampler: grid, num_trials: 4, seed: 0}
scheduler: {name: none}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("outcomes")
    path = folder / "outcomes.yaml"
    path.write_text(SPACE)
    machine = Machine(home=folder / "home")
    done = machine.run("run", str(path))
    assert done.returncode == 4, done.stderr
    return machine


@pytest.fixture(scope="module")
def trials(machine: Machine) -> dict[str, list[dict]]:
    by_state: dict[str, list[dict]] = {}
    for trial in machine.leaderboard("outcomes")["trials"]:
        by_state.setdefault(trial["state"], []).append(trial)
    return by_state


def test_every_trial_ends_as_it_deserves(trials: dict[str, list[dict]]) -> None:
    assert {state: len(found) for state, found in trials.items()} == {
        "complete": 1,
        "infeasible": 2,
        "failed": 1,
    }


def test_a_student_that_breaks_a_constraint_is_never_trained(trials: dict[str, list[dict]]) -> None:
    for trial in trials["infeasible"]:
        assert trial["parameters"]["student.name"] == "mobilefacenet"
        assert trial["epochs"] == 0
        assert "efficiency/parameters at most 300,000" in trial["reason"]
        assert not (Path(trial["checkpoint"]) / "last.pt").exists()


def test_a_diverged_trial_fails_with_its_reason_in_mlflow(
    machine: Machine, trials: dict[str, list[dict]]
) -> None:
    (failed,) = trials["failed"]
    run = MlflowClient(tracking_uri=f"sqlite:///{machine.home / 'mlflow.db'}").get_run(failed["run_id"])
    assert run.info.status == "FAILED"
    assert run.data.tags["reason"].startswith("distill.errors.DivergenceError: ")
    assert failed["reason"] == run.data.tags["reason"]


def test_a_number_that_is_not_finite_is_never_reported(
    machine: Machine, trials: dict[str, list[dict]]
) -> None:
    (failed,) = trials["failed"]
    run = MlflowClient(tracking_uri=f"sqlite:///{machine.home / 'mlflow.db'}").get_run(failed["run_id"])
    assert run.data.metrics == {}
