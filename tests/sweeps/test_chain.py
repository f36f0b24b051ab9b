"""A study that takes the best student of another as its teacher."""

from pathlib import Path

import optuna
import pytest

from distill.checkpoint import BEST, save_student
from distill.errors import InputError, RefusedError
from distill.students import BridgeTinySettings
from sweeps.chain import teacher_from
from sweeps.home import Home
from sweeps.space import load_space
from sweeps.study import OUTCOME, create_study, load_study


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(str(tmp_path / "home"))
    home.ensure()
    space = load_space("quickstart")
    folder = home.study("first")
    with folder.driven():
        folder.space.write_text(space.to_yaml())
        create_study(home, "first", space)
    return home


def complete(home: Home, number: int, value: float) -> str:
    """A complete trial of the study, with a student; returns the digest of its weights."""
    outcome = {"metrics": {"validation/verification_accuracy": value}}
    load_study(home, "first").add_trial(optuna.trial.create_trial(value=value, user_attrs={OUTCOME: outcome}))
    settings = BridgeTinySettings()
    card = save_student(
        settings.build(embedding_dim=128, size_px=16),
        home.study("first").trial(number) / BEST,
        student=settings,
        embedding_dim=128,
        size_px=16,
        epoch=1,
        metrics={},
        teacher_digest="0" * 64,
    )
    return card.sha256


def test_the_best_student_becomes_the_teacher_of_every_trial(home: Home) -> None:
    complete(home, 0, 0.6)
    digest = complete(home, 1, 0.8)
    space = load_space("bridge", overrides=teacher_from(home, "first"))
    teacher = space.config(space.first_point()).teacher
    assert teacher.name == "distilled"
    assert teacher.sha256 == digest
    assert teacher.load().embedding_dim == 128


def test_a_study_without_a_complete_trial_teaches_nobody(home: Home) -> None:
    with pytest.raises(RefusedError, match="has no complete trial"):
        teacher_from(home, "first")


def test_an_unknown_study_is_the_users_mistake(home: Home) -> None:
    with pytest.raises(InputError, match="nowhere"):
        teacher_from(home, "nowhere")
