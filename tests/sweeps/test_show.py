"""A trial is explained from Optuna, MLflow and the disk, and fits any terminal."""

import io
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from rich.console import Console

from distill.errors import InputError
from sweeps.cli import main
from sweeps.home import Home
from sweeps.show import as_text, better_side, look_at, sparkline
from sweeps.study import load_study, run_attribute
from tests.sweeps.small_home import ACCURACY, built, copied


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture
def home(root: Path) -> Home:
    return built(root)


def shown(home: Home, number: int, *, width: int = 80, symbols: bool = True) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(as_text(look_at(home, "tiny", number), width=width, symbols=symbols), soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line_of(text: str, start: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(start)).split()


def test_what_was_drawn_stands_beside_the_base_and_the_best(home: Home) -> None:
    assert line_of(shown(home, 1), "optimizer.lr") == ["optimizer.lr", "0.0002", "0.001", "0.003"]
    assert "best (trial" not in shown(home, 0)


def test_metrics_stand_beside_the_teachers(home: Home) -> None:
    assert line_of(shown(home, 1), ACCURACY) == [ACCURACY, "0.5100", "0.9300", "54.8%"]


def test_curves_have_a_first_a_best_and_a_last_number(home: Home) -> None:
    curves = shown(home, 1).partition("curve")[2]
    assert line_of(curves, ACCURACY) == [ACCURACY, "▁█▅", "0.5000", "0.5200", "0.5100"]
    assert line_of(curves, "train/loss") == ["train/loss", "█▄▁", "1.5000", "1.0000", "1.0000"]


def test_a_failed_trial_tells_why_and_how_often_it_was_begun(home: Home) -> None:
    text = shown(home, 2)
    assert "failed" in text
    assert "RuntimeError: the node is gone" in text
    assert "begun again: lost after epoch 0: the node is gone" in text
    assert "(it is not there)" in text


def test_what_people_noted_in_mlflow_is_told(root: Path, tmp_path: Path) -> None:
    home = copied(root, tmp_path / "home")
    run_id = load_study(home, "tiny").user_attrs[run_attribute(1)]
    MlflowClient(tracking_uri=home.tracking_uri).set_tag(run_id, "note.of.mine", "look at the noses")
    assert "note.of.mine: look at the noses" in shown(home, 1)


def test_where_it_is_and_what_repeats_it_can_be_copied(home: Home) -> None:
    lines = shown(home, 0, width=40).splitlines()
    assert f"student  {home.study('tiny').trial(0) / 'best'}" in lines
    assert f"repeat   sweeps rerun tiny 0 --home {home.root}" in lines


def test_a_student_that_was_thrown_away_is_not_there(root: Path, tmp_path: Path) -> None:
    home = copied(root, tmp_path / "home")
    assert look_at(home, "tiny", 1).is_there
    shutil.rmtree(home.study("tiny").trial(1))
    assert not look_at(home, "tiny", 1).is_there


def test_without_mlflow_only_the_curves_are_missing(root: Path, tmp_path: Path) -> None:
    home = copied(root, tmp_path / "home")
    database = home.root / "mlflow.db"
    database.unlink()
    text = shown(home, 1)
    assert f"no curves: there is no {database}" in text
    assert "0.5100" in text
    assert not database.exists()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_tables_fit_the_terminal(home: Home, number: int, width: int) -> None:
    lines = shown(home, number, width=width).splitlines()
    paths = ("student ", "MLflow ", "repeat ")
    assert all(len(line) <= width for line in lines if not line.startswith(paths))


def test_ascii_is_enough(home: Home) -> None:
    shown(home, 1, symbols=False).encode("ascii")


def test_the_command_prints_one_document(home: Home) -> None:
    done = CliRunner().invoke(main, ["show", "tiny", "1", "--home", str(home.root), "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["settings"]["optimizer.lr"] == {
        "drawn": 2e-4,
        "set": 2e-4,
        "base": 1e-3,
        "best": 3e-3,
    }
    assert document["curves"]["train/loss"] == [[1, 1.5], [2, 1.2], [3, 1.0]]
    assert document["student_is_there"]


def test_a_trial_that_does_not_exist_is_the_users_mistake(home: Home) -> None:
    with pytest.raises(InputError, match="study tiny has no trial 7: it has 0 to 2"):
        look_at(home, "tiny", 7)


def test_sparklines_span_their_values() -> None:
    assert sparkline([0, 7, 3]) == "▁█▄"
    assert sparkline([0, 7, 3], symbols=False) == "_#-"
    assert sparkline([2, 2]) == "▁▁"
    assert sparkline(list(range(100)), width=3) == "▁▅█"


@pytest.mark.parametrize(
    ("metric", "side"),
    [("train/loss/cosine", "minimize"), ("validation/auc", "maximize"), ("train/resampling_radius", None)],
)
def test_the_better_side_is_told_by_the_name(metric: str, side: str | None) -> None:
    assert better_side(metric, {}) == side
    assert better_side(metric, {metric: "minimize"}) == "minimize"
