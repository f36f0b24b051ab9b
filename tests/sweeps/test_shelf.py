"""The best students of a sweep stay on disk; the others go, and so do states that nothing continues from."""

from pathlib import Path

import pytest

from distill.checkpoint import BEST, LAST
from sweeps.depot import Depot
from sweeps.home import StudyFolder
from sweeps.leaderboard import State, TrialRow
from sweeps.shelf import Shelf
from sweeps.space import KeepSettings, SchedulerSettings, SearchSpace, parse_space

METRIC = "validation/verification_accuracy"


@pytest.fixture
def space() -> SearchSpace:
    text = f"""
name: small
objectives: [{{metric: {METRIC}, direction: maximize}}]
search: {{num_trials: 9}}
keep: {{students: 2}}
"""
    return parse_space(text, file="small.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(root=tmp_path / "study")


def ended(folder: StudyFolder, number: int, value: float, state: State = "complete") -> TrialRow:
    """A trial that left a student and its state."""
    (folder.trial(number) / BEST).mkdir(parents=True)
    (folder.trial(number) / LAST).write_bytes(b"state")
    return TrialRow(number=number, state=state, values=[value], metrics={METRIC: value})


def students(folder: StudyFolder) -> list[int]:
    return sorted(int(path.parent.name) for path in (folder.root / "trials").glob(f"*/{BEST}"))


def test_the_best_students_stay_as_better_ones_come(space: SearchSpace, folder: StudyFolder) -> None:
    shelf = Shelf(space, folder, [])
    left = []
    for number, value in enumerate([0.5, 0.7, 0.6, 0.4, 0.8]):
        shelf.put(ended(folder, number, value))
        left.append(students(folder))
    assert left == [[0], [0, 1], [1, 2], [1, 2], [1, 4]]


def test_completed_trials_go_before_pruned_ones_however_good(space: SearchSpace, folder: StudyFolder) -> None:
    shelf = Shelf(space, folder, [])
    shelf.put(ended(folder, 0, 0.9, "pruned"))
    shelf.put(ended(folder, 1, 0.8, "pruned"))
    shelf.put(ended(folder, 2, 0.5, "complete"))
    assert students(folder) == [0, 2]


def test_a_failed_trial_leaves_no_student(space: SearchSpace, folder: StudyFolder) -> None:
    Shelf(space, folder, []).put(ended(folder, 0, 0.9, "failed"))
    assert students(folder) == []


def test_the_state_of_a_trial_that_ended_goes(space: SearchSpace, folder: StudyFolder) -> None:
    Shelf(space, folder, []).put(ended(folder, 0, 0.9))
    assert list(folder.trial(0).iterdir()) == [folder.trial(0) / BEST]


def test_a_population_keeps_the_states_that_others_may_go_on_from(
    space: SearchSpace, folder: StudyFolder
) -> None:
    population = space.model_copy(update={"scheduler": SchedulerSettings(name="pbt")})
    Shelf(population, folder, []).put(ended(folder, 0, 0.9))
    assert (folder.trial(0) / LAST).exists()


def test_a_later_driver_begins_with_what_was_kept(space: SearchSpace, folder: StudyFolder) -> None:
    rows = [ended(folder, 0, 0.9), ended(folder, 1, 0.8)]
    Shelf(space, folder, rows).put(ended(folder, 2, 0.85))
    assert students(folder) == [0, 2]


def test_what_is_kept_is_the_spaces_to_say(space: SearchSpace, folder: StudyFolder) -> None:
    shelf = Shelf(space.model_copy(update={"keep": KeepSettings(students=1)}), folder, [])
    for number in range(3):
        shelf.put(ended(folder, number, 0.5 + number / 10))
    assert students(folder) == [2]


@pytest.fixture
def stored(tmp_path: Path) -> StudyFolder:
    """Of a home in a store."""
    depot = Depot(f"file://{tmp_path / 'store'}", tmp_path / "home")
    return StudyFolder(root=tmp_path / "home" / "studies" / "small", depot=depot)


def handed_on(folder: StudyFolder, number: int, value: float) -> TrialRow:
    """A trial that left a student and its state in the store too."""
    row = ended(folder, number, value)
    (folder.trial(number) / BEST / "student.json").touch()
    assert folder.depot is not None
    folder.depot.push(folder.trial(number))
    return row


@pytest.mark.parametrize(
    ("scheduler", "states"), [("none", set[str]()), ("pbt", {LAST})], ids=["none", "population"]
)
def test_a_store_keeps_what_the_folder_does(
    space: SearchSpace, stored: StudyFolder, scheduler: str, states: set[str]
) -> None:
    space = space.model_copy(update={"scheduler": SchedulerSettings.model_validate({"name": scheduler})})
    shelf = Shelf(space, stored, [])
    for number, value in enumerate([0.5, 0.7, 0.6]):
        shelf.put(handed_on(stored, number, value))
    assert stored.depot is not None
    left = [stored.depot.names(stored.trial(number)) for number in range(3)]
    student = f"{BEST}/student.json"
    assert left == [states, states | {student}, states | {student}]
    assert students(stored) == [1, 2]
