"""Architectures beyond their budget are told before anything is trained."""

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from distill.config import TrialConfig
from distill.evaluation import static_efficiency_of
from distill.students import SearchableSettings
from sweeps.budget import Budget
from sweeps.home import Home
from sweeps.ledger import Ledger
from sweeps.provenance import Provenance
from sweeps.search import StudySearcher
from sweeps.space import SearchSpace, load_space
from sweeps.study import create_study, trial_rows
from sweeps.terminal import sweep_display
from sweeps.tracking import Tracker

PARAMETERS, MACS = "efficiency/parameters", "efficiency/macs"
LIMITS = {PARAMETERS: 750_000, MACS: 16_000_000}
NUM_TRIALS = 12


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    overrides = {"search.num_trials": str(NUM_TRIALS), "search.sampler": "random"}
    return load_space("architecture", overrides=overrides)


def efficiency(config: TrialConfig) -> dict[str, float]:
    return static_efficiency_of(
        config.student, embedding_dim=config.student_dim(), size_px=config.faces.size_px
    )


def test_every_setting_of_the_searchable_student_is_searched(space: SearchSpace) -> None:
    searched = {name.removeprefix("student.") for name in space.parameters if name.startswith("student.")}
    assert searched == SearchableSettings.model_fields.keys() - {"name"}


def test_its_budgets_leave_a_choice(space: SearchSpace) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    num_kept, broken = 0, dict.fromkeys(LIMITS, 0)
    for _ in range(16):
        config = space.config(space.sample(study.ask()))
        costs = efficiency(config)
        sentences = space.broken_constraints(costs)
        over = [metric for metric, limit in LIMITS.items() if costs[metric] > limit]
        assert [sentence.split()[0] for sentence in sentences] == over
        num_kept += not over
        for metric in over:
            broken[metric] += 1
    assert min(num_kept, *broken.values()) > 0


@pytest.fixture
def searched(space: SearchSpace, tmp_path: Path) -> Iterator[tuple[StudySearcher, optuna.Study, Home]]:
    """A sweep of the space that nothing runs: its points are drawn, its trials are told, none is trained."""
    home = Home.at(str(tmp_path / "home"), f"sqlite:///{tmp_path / 'mlflow.db'}")
    home.ensure()
    study = create_study(home, "architecture", space)
    tracker = Tracker(home, study="architecture", on_run=lambda number, run: None)
    tracker.start_sweep(space_yaml=space.to_yaml(), params={}, provenance=Provenance.of_this_process())
    folder = home.study("architecture")
    with sweep_display(space, as_json=True) as display:
        budget = Budget(study, space)
        ledger = Ledger(study, space, folder=folder, tracker=tracker, display=display, budget=budget)
        searcher = StudySearcher(
            study, space, folder=folder, ledger=ledger, budget=budget, room=lambda: NUM_TRIALS
        )
        yield searcher, study, home
        assert tracker.close()


@pytest.mark.slow
def test_what_breaks_a_budget_is_told_infeasible_and_never_becomes_a_trial_of_tune(
    space: SearchSpace, searched: tuple[StudySearcher, optuna.Study, Home]
) -> None:
    searcher, study, home = searched
    tasks = []
    while isinstance(task := searcher.suggest(f"tune-{len(tasks)}"), dict):
        tasks.append(task)
    rows = trial_rows(study, space)
    infeasible = [row for row in rows if row.state == "infeasible"]
    assert len(rows) == NUM_TRIALS
    assert {task["number"] for task in tasks} == {row.number for row in rows if row.state == "running"}
    assert len(infeasible) == NUM_TRIALS - len(tasks) > 0
    for task in tasks:
        costs = efficiency(TrialConfig.model_validate(task["config"]))
        assert all(costs[metric] <= limit for metric, limit in LIMITS.items())
    for row in infeasible:
        assert row.epochs == 0
        assert any(row.metrics[metric] > limit for metric, limit in LIMITS.items())
        assert row.reason is not None
        assert row.reason.startswith("infeasible: efficiency/")
        assert not home.study("architecture").trial(row.number).exists()
