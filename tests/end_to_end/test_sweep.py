"""The main job, end to end: search, trials, records, promotion."""

import json
import math
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from distill.checkpoint import BEST, load_student
from tests.end_to_end.machine import SPACE, Machine

pytestmark = pytest.mark.slow

EPOCHS = 3


@pytest.fixture(scope="module")
def client(swept: Machine) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{swept.home / 'mlflow.db'}")


@pytest.fixture(scope="module")
def runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


@pytest.fixture(scope="module")
def children(runs: list[Run]) -> dict[str, Run]:
    return {run.info.run_id: run for run in runs if "mlflow.parentRunId" in run.data.tags}


def test_the_leaderboard_lists_every_trial_with_what_it_came_to(swept: Machine) -> None:
    trials = swept.leaderboard("small")["trials"]
    assert sorted(trial["trial"] for trial in trials) == [0, 1, 2, 3, 4]
    for trial in trials:
        assert trial["state"] in ("complete", "pruned")
        assert "optimizer.lr" in trial["parameters"]
        assert trial["metrics"]["validation/verification_accuracy"] > 0.4
        assert trial["run_id"]


def test_mlflow_holds_exactly_those_trials_as_children_of_one_sweep(
    swept: Machine, runs: list[Run], children: dict[str, Run]
) -> None:
    trials = swept.leaderboard("small")["trials"]
    assert sorted(children) == sorted(trial["run_id"] for trial in trials)
    parents = [run for run in runs if run.info.run_id not in children]
    assert len(parents) == 1
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parents[0].info.run_id}


def test_asha_prunes_some_trials_and_lets_some_complete(swept: Machine) -> None:
    trials = swept.leaderboard("small")["trials"]
    assert {trial["state"] for trial in trials} == {"complete", "pruned"}
    assert all(trial["epochs"] == EPOCHS for trial in trials if trial["state"] == "complete")
    assert all(trial["epochs"] < EPOCHS for trial in trials if trial["state"] == "pruned")


def test_a_run_ends_as_its_trial_did(swept: Machine, children: dict[str, Run]) -> None:
    expected = {"complete": "FINISHED", "pruned": "KILLED"}
    for trial in swept.leaderboard("small")["trials"]:
        assert children[trial["run_id"]].info.status == expected[trial["state"]]


def test_a_run_has_every_parameter_under_its_dotted_name(swept: Machine, children: dict[str, Run]) -> None:
    for trial in swept.leaderboard("small")["trials"]:
        params = children[trial["run_id"]].data.params
        assert params["student.name"] == "bridge_tiny"
        assert params["training.batch_size"] == "64"
        for name, value in trial["parameters"].items():
            assert params[name] == str(value)


def test_a_run_has_its_metrics_by_epoch(swept: Machine, client: MlflowClient) -> None:
    for trial in swept.leaderboard("small")["trials"]:
        for name in ("train/loss", "validation/verification_accuracy", "validation/teacher_similarity"):
            history = client.get_metric_history(trial["run_id"], name)
            assert [point.step for point in history] == list(range(1, trial["epochs"] + 1))


def test_a_run_says_where_it_comes_from(children: dict[str, Run], client: MlflowClient) -> None:
    for run in children.values():
        assert run.inputs is not None
        contexts = {entry.tags[0].value for entry in run.inputs.dataset_inputs}
        assert contexts == {"training", "validation"}
        assert all(len(entry.dataset.digest) >= 8 for entry in run.inputs.dataset_inputs)
        assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"config.json"}


def test_the_sweep_records_its_commit_environment_and_space(client: MlflowClient, runs: list[Run]) -> None:
    parent = next(run for run in runs if run.data.tags.get("kind") == "sweep")
    assert parent.info.status == "FINISHED"
    assert len(parent.data.tags["mlflow.source.git.commit"]) == 40
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files >= {"space.yaml", "environment.json", "leaderboard.csv"}


def test_only_completed_trials_keep_their_student(swept: Machine, client: MlflowClient) -> None:
    for trial in swept.leaderboard("small")["trials"]:
        kept = {file.path for file in client.list_artifacts(trial["run_id"])}
        assert ("student" in kept) == (trial["state"] == "complete")


def test_the_champion_gives_the_embeddings_of_the_best_checkpoint(
    swept: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(f"sqlite:///{swept.home / 'mlflow.db'}")
    champion = mlflow.pyfunc.load_model("models:/small-student@champion")
    best = swept.leaderboard("small")["trials"][0]
    student, _ = load_student(Path(best["checkpoint"]) / BEST)
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected = student(images).numpy()
    np.testing.assert_allclose(champion.predict(images.numpy()), expected, atol=1e-5)


def test_the_registered_version_says_which_trial_it_is_and_what_its_gates_said(
    swept: Machine, client: MlflowClient
) -> None:
    version = client.get_model_version_by_alias("small-student", "champion")
    best = swept.leaderboard("small")["trials"][0]
    assert version.run_id == best["run_id"]
    assert version.tags["trial"] == str(best["trial"])
    assert "passed" in version.tags["gate.benchmark/verification_accuracy"]
    assert 0.5 < float(version.tags["benchmark/verification_accuracy"]) < 1.0


def test_json_prints_one_document_and_nothing_else(swept: Machine) -> None:
    document = json.loads((swept.home / "document.json").read_text())
    assert document["study"] == "small"
    assert document["promotion"]["uri"] == "models:/small-student@champion"
    assert len(document["trials"]) == 5
    assert math.isfinite(document["teacher"]["validation/verification_accuracy"])


def test_nothing_of_ray_is_left(swept: Machine) -> None:
    assert swept.wait_until_quiet() == []


def test_the_same_seed_gives_the_same_leaderboard_and_a_second_sweep_stands_beside_the_first(
    machine: Machine, swept: Machine
) -> None:
    for _ in range(2):
        done = machine.run(
            "run", str(SPACE), "--set", "search.num_trials=3", "--set", "promotion.automatic=false"
        )
        assert done.returncode == 0, done.stderr
    first, second = (_outcomes(machine.leaderboard(name)) for name in ("small", "small-2"))
    assert first == second
    assert first == [row for row in _outcomes(swept.leaderboard("small")) if row[0] < 3]


def _outcomes(document: dict) -> list[tuple]:
    """What must repeat: all but times, paths and ids."""
    rows = [
        (
            trial["trial"],
            trial["state"],
            trial["epochs"],
            trial["parameters"],
            {name: value for name, value in trial["metrics"].items() if name != "train/faces_per_second"},
        )
        for trial in document["trials"]
    ]
    return sorted(rows, key=lambda row: row[0])
