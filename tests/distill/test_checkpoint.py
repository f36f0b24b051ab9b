"""A student's folder: whole or refused."""

from pathlib import Path

import pytest
import torch

from distill.checkpoint import CARD, WEIGHTS, load_student, save_student
from distill.errors import InputError
from distill.students import BridgeTinySettings


def save(directory: Path, *, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    settings = BridgeTinySettings()
    student = settings.build(embedding_dim=16, size_px=16).eval()
    save_student(
        student,
        directory,
        student=settings,
        embedding_dim=16,
        size_px=16,
        epoch=1,
        metrics={"validation/eer": 0.1},
        teacher_digest="abc",
    )
    return student


def test_a_student_comes_back_as_it_was(tmp_path: Path) -> None:
    student = save(tmp_path / "best")
    images = torch.rand(3, 3, 16, 16)
    loaded, card = load_student(tmp_path / "best")
    torch.testing.assert_close(loaded(images), student(images))
    assert card.metrics == {"validation/eer": 0.1}


def test_saving_again_replaces_the_student_and_leaves_nothing_else(tmp_path: Path) -> None:
    save(tmp_path / "best")
    second = save(tmp_path / "best", seed=1)
    images = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(load_student(tmp_path / "best")[0](images), second(images))
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_refuses_a_folder_that_holds_no_student(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"is not a student's folder: it has no {CARD}"):
        load_student(tmp_path)


def test_refuses_weights_that_the_card_does_not_name(tmp_path: Path) -> None:
    save(tmp_path / "best")
    weights = tmp_path / "best" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(InputError, match="its card says"):
        load_student(tmp_path / "best")


def test_refuses_a_card_that_is_not_one(tmp_path: Path) -> None:
    save(tmp_path / "best")
    (tmp_path / "best" / CARD).write_text('{"student": {"name": "bridge_tiny"}}')
    with pytest.raises(InputError, match="is not a student's card"):
        load_student(tmp_path / "best")
