"""Ranking on the benchmark: refused unless the space says so, and then said wherever results are shown."""

from pathlib import Path

import pytest

from sweeps.home import Home
from sweeps.report import leaderboard_text
from sweeps.space import load_space
from sweeps.space.problems import SpaceError
from sweeps.study import create_study

SPACE = """
name: borrowed
{selection}
objectives: [{{metric: benchmark/verification_accuracy, direction: maximize}}]
base:
  teacher: {{name: embedded}}
  method: {{name: synthdistill}}
parameters:
  optimizer.lr: {{type: float, low: 1e-4, high: 1e-2, log: true}}
search: {{sampler: random, num_trials: 2}}
"""


def write(tmp_path: Path, selection: str) -> str:
    path = tmp_path / "borrowed.yaml"
    path.write_text(SPACE.format(selection=selection))
    return str(path)


def test_an_objective_on_the_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="must not be of the benchmark, which is for what was selected"):
        load_space(write(tmp_path, ""))


def test_a_space_that_says_so_ranks_on_it_and_its_trials_measure_it(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, "selection: benchmark"))
    config = space.config({"optimizer.lr": 1e-3})
    assert config.selection.metric == "benchmark/verification_accuracy"
    assert config.selection.pairs == "benchmark"


@pytest.mark.parametrize("form", ["table", "json"])
def test_the_leaderboard_says_so(tmp_path: Path, form: str) -> None:
    space = load_space(write(tmp_path, "selection: benchmark"))
    home = Home.at(str(tmp_path / "home"))
    home.ensure()
    folder = home.study("borrowed")
    with folder.driven():
        folder.space.write_text(space.to_yaml())
        create_study(home, "borrowed", space)
    shown = leaderboard_text(home, "borrowed", form=form)
    expected = "selected on the benchmark: " if form == "table" else '"selection": "benchmark"'
    assert expected in shown
