"""What no record of a study needs goes; what may be resumed, promoted or compared stays."""

from pathlib import Path

import pytest

from distill.checkpoint import BEST, LAST
from distill.errors import RefusedError
from sweeps.gc import collect, garbage
from sweeps.home import Home
from sweeps.space import parse_space
from sweeps.study import OUTCOME, create_study

METRIC = "validation/verification_accuracy"
SPACE = f"""
name: small
objectives: [{{metric: {METRIC}, direction: maximize}}]
parameters: {{optimizer.lr: {{type: float, low: 1e-4, high: 1e-1, log: true}}}}
search: {{num_trials: 9}}
keep: {{students: 1}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Two trials completed, one was interrupted; and there is a folder that is no trial's."""
    home, space = Home.at(str(tmp_path / "home")), parse_space(SPACE, file="small.yaml")
    home.ensure()
    folder = home.study("small")
    folder.root.mkdir()
    folder.space.write_text(space.to_yaml())
    study = create_study(home, "small", space)
    for number, value in enumerate([0.5, 0.9, None]):
        trial = study.ask()
        space.sample(trial)
        (folder.trial(number) / BEST).mkdir(parents=True)
        (folder.trial(number) / BEST / "student.json").write_bytes(b"x" * 1000)
        (folder.trial(number) / LAST).write_bytes(b"x" * 500)
        if value is not None:
            trial.set_user_attr(OUTCOME, {"reason": None, "metrics": {METRIC: value}, "seconds": 1.0})
            study.tell(trial, value)
    folder.trial(7).mkdir()
    (folder.root / "tune").mkdir()
    (folder.trial(1) / ".best-abc").mkdir()
    return home


def test_what_goes_is_named_with_its_reason_and_size(home: Home) -> None:
    root = home.study("small").root
    found = {
        str(item.path.relative_to(root)): (item.reason, item.num_bytes) for item in garbage(home, "small")
    }
    assert found == {
        "tune": ("Ray's own notes of runs that ended", 0),
        "trials/0000/last.pt": ("the state of a training that ended", 500),
        "trials/0000/best": ("a student beyond those kept", 1000),
        "trials/0001/last.pt": ("the state of a training that ended", 500),
        "trials/0001/.best-abc": ("was being written when its process ended", 0),
        "trials/0007": ("no trial of the study", 0),
    }


def test_what_may_go_on_and_what_is_kept_stays(home: Home) -> None:
    collect(garbage(home, "small"), home)
    trials = home.study("small").root / "trials"
    left = sorted(str(path.relative_to(trials)) for path in trials.rglob("*") if path.is_file())
    assert left == ["0001/best/student.json", "0002/best/student.json", "0002/last.pt"]
    assert garbage(home, "small") == []


def test_a_study_that_is_driven_is_left_alone(home: Home) -> None:
    with home.study("small").driven(), pytest.raises(RefusedError, match="is being driven by process"):
        garbage(home, "small")
