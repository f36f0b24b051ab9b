"""What a trial is told to go on from, and how much of it the records have."""

import pickle
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
from ray.exceptions import ActorDiedError

from distill.checkpoint import LAST
from sweeps import ledger
from sweeps.budget import Budget
from sweeps.home import Home, StudyFolder
from sweeps.ledger import Ledger
from sweeps.provenance import Provenance
from sweeps.search import StudySearcher
from sweeps.space import parse_space
from sweeps.study import create_study, fail_orphans
from sweeps.task import TrialTask
from sweeps.terminal import sweep_display
from sweeps.tracking import Tracker
from tests.sweeps.small_home import ACCURACY, SPACE

PBT = "scheduler: {name: pbt, perturb_epochs: 1}"


class Sweep:
    """A sweep that nothing runs: its points are drawn, what trials report is made up."""

    def __init__(self, stack: ExitStack, home: Home, *, scheduler: str = ""):
        text = SPACE.replace("epochs: 1", "epochs: 4")
        if scheduler:
            text = text.replace("scheduler: {name: none}", scheduler)
        self.space = parse_space(text, file="tiny.yaml")
        self._stack, self._home = stack, home
        self.folder: StudyFolder = home.study("tiny")
        self.study: optuna.Study = create_study(home, "tiny", self.space)
        self.tracker = Tracker(home, study="tiny", on_run=lambda number, run: None)
        self.tracker.start_sweep(
            space_yaml=self.space.to_yaml(), params={}, provenance=Provenance.of_this_process()
        )
        self.drive()

    def drive(self) -> None:
        """A driver takes the study."""
        display = self._stack.enter_context(sweep_display(self.space, as_json=True))
        budget = Budget(self.study, self.space)
        parts: dict[str, Any] = {"folder": self.folder, "budget": budget}
        self.ledger = Ledger(self.study, self.space, tracker=self.tracker, display=display, **parts)
        self.searcher = StudySearcher(self.study, self.space, ledger=self.ledger, room=lambda: 1, **parts)

    def begin(self) -> Any:
        """The next trial, as Tune has it."""
        task = cast(TrialTask, self.searcher.suggest("tune"))
        return SimpleNamespace(trial_id="tune", config=dict(task))

    def report(self, trial: Any, *epochs: int, leaves_state: bool = True) -> None:
        for epoch in epochs:
            result = {"epoch": epoch, ACCURACY: epoch / 10, "config": trial.config}
            self.ledger.on_trial_result(0, [], trial, result)
        if leaves_state:
            directory = Path(trial.config["directory"])
            directory.mkdir(parents=True)
            (directory / LAST).touch()

    def killed_and_resumed(self) -> None:
        fail_orphans(self.study, retry=True)
        self.drive()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(str(tmp_path / "home"), f"sqlite:///{tmp_path / 'mlflow.db'}")
    home.ensure()
    return home


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_trial_that_is_begun_again_is_told_how_many_of_its_epochs_were_heard_of(
    stack: ExitStack, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "free_workers", lambda directory: None)  # there is no Ray
    sweep = Sweep(stack, home)
    trial = sweep.begin()
    assert trial.config["told_epochs"] == 0
    sweep.report(trial, 1, 2)
    sweep.report(trial, 1, leaves_state=False)  # heard of before
    (tmp_path / "error.pkl").write_bytes(pickle.dumps(ActorDiedError()))
    trial.pickled_error_file, trial.error_file = str(tmp_path / "error.pkl"), None
    sweep.ledger.on_trial_error(0, [], trial)
    again = sweep.begin()
    assert (again.config["number"], again.config["told_epochs"]) == (0, 2)
    assert sweep.tracker.close()


def test_one_that_goes_on_from_an_interrupted_trial_tells_all_of_its_epochs(
    stack: ExitStack, home: Home
) -> None:
    sweep = Sweep(stack, home)
    sweep.report(sweep.begin(), 1, 2)
    sweep.killed_and_resumed()
    again = sweep.begin()
    assert (again.config["number"], again.config["told_epochs"]) == (1, 0)
    assert again.config["continue_from"] == str(sweep.folder.trial(0))
    assert sweep.tracker.close()


def test_one_that_was_interrupted_before_it_left_a_state_is_passed_over(stack: ExitStack, home: Home) -> None:
    sweep = Sweep(stack, home)
    sweep.report(sweep.begin(), 1, 2)
    for _ in range(2):
        sweep.killed_and_resumed()
        sweep.begin()
    sweep.killed_and_resumed()
    again = sweep.begin()
    assert again.config["number"] == 3
    assert again.config["continue_from"] == str(sweep.folder.trial(0))
    assert sweep.tracker.close()


def test_one_whose_line_left_no_state_begins_anew(stack: ExitStack, home: Home) -> None:
    sweep = Sweep(stack, home)
    sweep.begin()
    sweep.killed_and_resumed()
    assert sweep.begin().config["continue_from"] is None
    assert sweep.tracker.close()


def test_a_population_hears_again_of_the_last_epoch_alone(stack: ExitStack, home: Home) -> None:
    sweep = Sweep(stack, home, scheduler=PBT)
    sweep.report(sweep.begin(), 1, 2, 3)
    sweep.killed_and_resumed()
    assert sweep.begin().config["told_epochs"] == 2
    assert sweep.tracker.close()
