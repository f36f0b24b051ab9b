"""A trial is repeated from its record alone, or refused with the reason."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from mlflow import MlflowClient

from distill.errors import InputError, RefusedError
from distill.training import train
from sweeps.cli import main
from sweeps.home import Home
from sweeps.record import read_record
from sweeps.rerun import Repeated, Rerun, _compared, as_lines, rerun, stages
from sweeps.study import load_study, run_attribute
from tests.sweeps.small_home import ACCURACY, built, copied


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture
def home(root: Path, tmp_path: Path) -> Home:
    return copied(root, tmp_path / "home")


def run_of(home: Home, number: int) -> str:
    return load_study(home, "tiny").user_attrs[run_attribute(number)]


def client_of(home: Home) -> MlflowClient:
    return MlflowClient(tracking_uri=home.tracking_uri)


def files_of(home: Home, run_id: str) -> Path:
    return Path(str(client_of(home).get_run(run_id).info.artifact_uri))


def parent_of(home: Home) -> str:
    return client_of(home).get_run(run_of(home, 0)).data.tags["mlflow.parentRunId"]


def test_a_record_tells_all_that_a_repetition_needs(root: Path) -> None:
    record = read_record(built(root), "tiny", 0)
    assert record.config.optimizer.lr == 3e-3
    assert record.resources.num_threads == 1
    assert record.teacher_digest == record.config.teacher.load().digest
    assert record.datasets["training"] == record.config.faces.training_digest()[:36]
    assert record.environment["torch"]
    assert ACCURACY in record.best


@pytest.mark.slow
def test_a_repetition_is_equal_without_optuna_or_the_students(home: Home) -> None:
    (home.root / "optuna.db").unlink()
    shutil.rmtree(home.root / "studies")
    again = rerun(home, "tiny", 0)
    assert again.agrees
    assert {metric.verdict for metric in again.metrics} == {"equal"}
    assert {"train/loss", ACCURACY} <= {metric.metric for metric in again.metrics}
    assert again.missing == []
    assert (again.folder / "best").is_dir()
    assert again.folder.parent.name == "reruns"


@pytest.mark.slow
def test_numbers_that_are_others_are_told(home: Home) -> None:
    client_of(home).log_metric(run_of(home, 0), ACCURACY, 0.9, step=1, timestamp=99)
    done = CliRunner().invoke(main, ["rerun", "tiny", "0", "--home", str(home.root)])
    assert done.exit_code == 3
    assert f"{ACCURACY}: 0.9 then" in done.stdout
    assert "the numbers do not agree" in done.stdout


@pytest.mark.slow
def test_batches_that_were_cut_for_want_of_memory_are_cut_so_again(home: Home, tmp_path: Path) -> None:
    record = read_record(home, "tiny", 0)
    assert record.accumulations == {}
    halves = record.config.training.model_copy(update={"accumulation": 2})
    config = record.config.model_copy(update={"training": halves})

    def remember(metrics: dict[str, float], checkpoint: Path) -> None:
        for name, value in metrics.items():
            client_of(home).log_metric(run_of(home, 0), name, value, step=1, timestamp=2**41)

    threads = torch.get_num_threads()
    torch.set_num_threads(record.resources.num_threads)
    train(config, report=remember, directory=tmp_path, cache=tmp_path / "embeddings")
    torch.set_num_threads(threads)
    assert not rerun(home, "tiny", 0).agrees
    client_of(home).set_tag(run_of(home, 0), "accumulation.0", "2")
    assert read_record(home, "tiny", 0).accumulations == {0: 2}
    assert {metric.verdict for metric in rerun(home, "tiny", 0).metrics} == {"equal"}


@pytest.mark.parametrize(
    ("accumulations", "expected"),
    [
        ({}, [(5, 1)]),
        ({0: 2}, [(5, 2)]),
        ({2: 2}, [(2, 1), (5, 2)]),
        ({3: 4, 0: 2}, [(3, 2), (5, 4)]),
        ({5: 2}, [(5, 1)]),
    ],
)
def test_a_trial_is_repeated_in_the_stages_that_it_was_trained_in(
    accumulations: dict[int, int], expected: list[tuple[int, int]]
) -> None:
    assert stages(accumulations, epochs=5) == expected


def test_another_teacher_is_refused(home: Home) -> None:
    client_of(home).set_tag(run_of(home, 0), "teacher_digest", "f" * 64)
    with pytest.raises(RefusedError, match=r"trial 0 of tiny is not repeated: the teacher had digest ffff"):
        rerun(home, "tiny", 0)


def test_a_member_of_a_population_is_refused(home: Home) -> None:
    (files_of(home, parent_of(home)) / "space.yaml").write_text("scheduler: {name: pbt}")
    with pytest.raises(RefusedError, match="under pbt a trial may go on from another's state"):
        rerun(home, "tiny", 0)


def test_a_trial_without_an_epoch_is_refused(home: Home) -> None:
    with pytest.raises(RefusedError, match="trial 2 of tiny finished no epoch"):
        rerun(home, "tiny", 2)


def test_a_damaged_record_is_told_in_one_sentence(home: Home) -> None:
    (files_of(home, run_of(home, 0)) / "config.json").write_text('{"optimizer": {"lr": -1}}')
    with pytest.raises(InputError, match=r"the record of trial 0 of tiny in .* cannot be read"):
        rerun(home, "tiny", 0)


@pytest.mark.parametrize(
    ("study", "number", "message"),
    [("small", 0, "has no record of a study 'small'"), ("tiny", 7, "has no record of trial 7 of study tiny")],
)
def test_what_is_not_recorded_is_the_users_mistake(root: Path, study: str, number: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rerun(built(root), study, number)


def test_no_database_is_made_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*mlflow\.db"):
        rerun(Home.at(str(tmp_path)), "tiny", 0)
    assert list(tmp_path.iterdir()) == []


def test_metrics_are_compared_where_they_are_furthest_apart() -> None:
    then = {"train/loss": [(1, 2.0), (2, 1.0)], "train/lr": [(1, 0.5)], "train/old": [(1, 1.0)]}
    now = {
        "train/loss": {1: 2.0, 2: 1.1},
        "train/lr": {1: 0.5 * (1 + 1e-7)},
        "train/new": {1: 1.0},
        "epoch": {1: 1.0},
        "train/faces_per_second": {1: 9.0},
    }
    metrics, missing = _compared(then, now)
    assert [(m.metric, m.epoch, m.verdict) for m in metrics] == [
        ("train/loss", 2, "differs"),
        ("train/lr", 1, "close"),
    ]
    assert metrics[0].apart == pytest.approx(0.1 / 1.1)
    assert missing == ["train/new", "train/old"]


def test_several_workers_are_held_to_less() -> None:
    apart = Repeated(metric="train/loss", epoch=1, then=1.0, now=0.97, apart=0.03)
    done = Rerun(
        study="tiny",
        trial=0,
        epochs=1,
        metrics=[apart],
        missing=[],
        changed=["2 workers trained it"],
        tolerance=0.05,
        folder=Path("folder"),
    )
    assert done.agrees
    assert not dataclasses.replace(done, tolerance=1e-6).agrees
    assert "  train/loss: 1 then, 0.97 now, 3.0% apart at epoch 1" in as_lines(done)
    assert json.loads(json.dumps(done.document()))["metrics"]["train/loss"]["verdict"] == "differs"
