"""Learning curves come out of MLflow by epoch, whatever else was recorded beside them."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from sweeps.curves import learning_curves
from sweeps.home import Home
from sweeps.tracking import check_tracker


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose database MLflow has made, which takes seconds."""
    home = Home.at(str(tmp_path_factory.mktemp("empty")))
    home.ensure()
    assert check_tracker(home).ok
    return home.root


@pytest.fixture
def home(empty: Path, tmp_path: Path) -> Home:
    return Home.at(str(shutil.copytree(empty, tmp_path / "home")))


@pytest.fixture
def client(home: Home) -> MlflowClient:
    return MlflowClient(tracking_uri=home.tracking_uri)


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    return client.create_run(client.create_experiment("study")).info.run_id


def log(client: MlflowClient, run_id: str, name: str, *points: tuple[int, int, float]) -> None:
    """Records a metric at so many milliseconds, at an epoch each."""
    client.log_batch(run_id, metrics=[Metric(name, value, at_ms, step) for at_ms, step, value in points])


def test_a_curve_is_ordered_by_epoch(home: Home, client: MlflowClient, run_id: str) -> None:
    log(client, run_id, "train/loss", (30, 2, 0.2), (40, 3, 0.1), (20, 1, 0.4))
    log(client, run_id, "validation/auc", (20, 1, 0.7))
    assert learning_curves(home, run_id) == {
        "train/loss": [(1, 0.4), (2, 0.2), (3, 0.1)],
        "validation/auc": [(1, 0.7)],
    }


def test_what_a_trial_that_was_begun_again_said_last_counts(
    home: Home, client: MlflowClient, run_id: str
) -> None:
    log(client, run_id, "train/loss", (10, 1, 0.5), (20, 2, 0.3), (90, 2, 0.9), (95, 3, 0.1))
    assert learning_curves(home, run_id) == {"train/loss": [(1, 0.5), (2, 0.9), (3, 0.1)]}


def test_what_belongs_to_no_epoch_is_left_out(home: Home, client: MlflowClient, run_id: str) -> None:
    log(client, run_id, "train/loss", (10, 1, 0.5))
    log(client, run_id, "best/train/loss", (20, 0, 0.5))
    assert learning_curves(home, run_id) == {"train/loss": [(1, 0.5)]}


def test_only_the_metrics_that_are_wanted_are_asked_for(
    home: Home, client: MlflowClient, run_id: str
) -> None:
    log(client, run_id, "train/loss", (10, 1, 0.5))
    log(client, run_id, "train/lr", (10, 1, 0.5))
    assert learning_curves(home, run_id, ["train/lr", "train/unheard_of"]) == {"train/lr": [(1, 0.5)]}


def test_a_run_without_metrics_has_no_curves(home: Home, run_id: str) -> None:
    assert learning_curves(home, run_id) == {}


def test_a_run_that_does_not_exist_is_an_error(home: Home) -> None:
    with pytest.raises(MlflowException, match="not found"):
        learning_curves(home, "0" * 32)
