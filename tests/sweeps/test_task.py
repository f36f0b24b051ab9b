"""What a trial has of a home in a store on the machine that trains it, and what it leaves there."""

from pathlib import Path
from typing import Any, cast

import pytest

from distill.checkpoint import LAST
from sweeps.depot import Depot
from sweeps.task import TrialTask, handing_on, on_copies

TEACHER = "trials/0009/best"


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    """A store in which another machine left a trial's state, another trial's, and a teacher."""
    there = Depot(f"file://{tmp_path / 'store'}", tmp_path / "there")
    for name in (
        f"trials/0000/{LAST}",
        f"trials/0001/{LAST}",
        f"trials/0009/{LAST}",
        f"{TEACHER}/student.json",
    ):
        path = there.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    for number in ("0000", "0001", "0009"):
        there.push(there.root / "trials" / number)
    return Depot(there.uri, tmp_path / "here")


def task(root: Path, **changes: Any) -> TrialTask:
    taught = {"teacher": {"name": "distilled", "folder": str(root / TEACHER)}}
    known = {"directory": str(root / "trials" / "0001"), "continue_from": None, "config": taught}
    return cast(TrialTask, known | changes)


def test_a_trial_has_its_own_folder_the_one_it_goes_on_from_and_its_teacher(depot: Depot) -> None:
    donor = depot.root / "trials" / "0000"
    with on_copies(depot, task(depot.root, continue_from=str(donor))):
        found = {str(path.relative_to(depot.root)) for path in depot.root.rglob("*") if path.is_file()}
        visible = {name for name in found if "/." not in name}
        assert visible == {f"trials/0000/{LAST}", f"trials/0001/{LAST}", f"{TEACHER}/student.json"}
    assert not (depot.root / "trials" / "0001").exists()


def test_a_teacher_that_is_not_of_the_home_is_left_alone(depot: Depot) -> None:
    for config in ({"teacher": {"name": "embedded"}}, {"teacher": {"folder": "/elsewhere/student"}}):
        with on_copies(depot, task(depot.root, config=config)):
            assert not (depot.root / TEACHER).exists()


def test_what_an_epoch_left_is_handed_on_before_it_is_reported(depot: Depot, tmp_path: Path) -> None:
    folder = depot.root / "trials" / "0002"
    folder.mkdir(parents=True)
    (folder / LAST).write_text("state")
    elsewhere = Depot(depot.uri, tmp_path / "elsewhere")
    reported = []

    def report(metrics: dict[str, float], checkpoint: Path) -> None:
        elsewhere.pull(elsewhere.root / "trials" / "0002")
        reported.append((metrics, (elsewhere.root / "trials" / "0002" / LAST).read_text()))

    handing_on(depot, report)({"epoch": 1.0}, folder)
    assert reported == [({"epoch": 1.0}, "state")]


def test_a_home_that_machines_share_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "trials" / "0001").mkdir(parents=True)
    with on_copies(None, task(tmp_path)):
        pass
    assert (tmp_path / "trials" / "0001").is_dir()
