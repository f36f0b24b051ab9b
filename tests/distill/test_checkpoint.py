"""A student's folder: whole or refused. A training's state: whole, or the one before it."""

import contextlib
import errno
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.checkpoint import (
    CARD,
    LAST,
    PREVIOUS,
    WEIGHTS,
    add_note,
    clear_rests,
    load_state,
    load_student,
    read_notes,
    save_state,
    save_student,
)
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


STATE: dict[str, Any] = {"step": 3, "learner": {"weight": torch.arange(4.0)}}


def remembered(directory: Path) -> tuple[Any, list[str]]:
    """The step that would be continued from, and what is told about it."""
    told: list[str] = []
    state = load_state(directory, tell=told.append)
    return state and state["step"], told


def with_two_states(directory: Path) -> None:
    for step in (1, 2):
        save_state({**STATE, "step": step}, directory)


def test_a_state_comes_back_as_it_was_and_the_one_before_is_kept(tmp_path: Path) -> None:
    assert remembered(tmp_path) == (None, [])
    with_two_states(tmp_path)
    assert remembered(tmp_path) == (2, [])
    assert torch.load(tmp_path / PREVIOUS, weights_only=True)["step"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: bytes(range(256)),
    "a hole of zeros": lambda content: content.replace(torch.arange(4.0).numpy().tobytes(), bytes(16)),
    "a name changed": lambda content: content.replace(b"data.pkl", b"data.pkk"),
    "another pickle": lambda content: pickle.dumps(STATE["step"]),
    "code": lambda content: archived(pickle.dumps(print)),
}


def archived(pickled: bytes) -> bytes:
    """A file like torch's around a pickle of anything."""
    with zipfile.ZipFile(content := io.BytesIO(), "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return content.getvalue()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_put_aside_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    with_two_states(tmp_path)
    whole = (tmp_path / LAST).read_bytes()
    damaged = DAMAGES[damage](whole)
    assert damaged != whole
    (tmp_path / LAST).write_bytes(damaged)
    step, (told,) = remembered(tmp_path)
    assert step == 1
    assert told == f"damaged and put aside in {tmp_path}: last.pt; the training goes on from previous.pt"
    assert (tmp_path / "last.pt.damaged").read_bytes() == damaged
    assert remembered(tmp_path) == (1, [])  # it is told once
    save_state({**STATE, "step": 5}, tmp_path)
    assert remembered(tmp_path) == (5, [])
    assert torch.load(tmp_path / PREVIOUS, weights_only=True)["step"] == 1


def test_two_damaged_states_leave_nothing_to_continue_from(tmp_path: Path) -> None:
    with_two_states(tmp_path)
    for name in (LAST, PREVIOUS):
        (tmp_path / name).write_bytes(b"")
    step, (told,) = remembered(tmp_path)
    assert step is None
    assert told == f"damaged and put aside in {tmp_path}: last.pt and previous.pt; the training begins anew"
    assert remembered(tmp_path) == (None, [])


@pytest.mark.parametrize("dies_at", range(4))
def test_whenever_a_save_is_cut_off_a_state_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    with_two_states(tmp_path)
    steps = iter(range(6))

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def call_or_die(*arguments: Any) -> Any:
            if next(steps) == dies_at:
                raise KeyboardInterrupt
            return call(*arguments)

        return call_or_die

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))
    with contextlib.suppress(KeyboardInterrupt):
        save_state({**STATE, "step": 3}, tmp_path)
    monkeypatch.undo()
    step, told = remembered(tmp_path)
    assert told == []
    assert step == (2 if dies_at < 3 else 3)


def test_a_disk_that_is_full_leaves_the_states_as_they_were_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_two_states(tmp_path)

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_state({**STATE, "step": 3}, tmp_path)
    assert remembered(tmp_path) == (2, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    with_two_states(tmp_path)
    save(tmp_path / "best")
    before = sorted(tmp_path.iterdir())
    (tmp_path / ".last-abc").write_bytes(b"half")
    (tmp_path / ".best-abc").mkdir()
    (tmp_path / ".best-abc" / WEIGHTS).write_bytes(b"half")
    clear_rests(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_notes_are_sentences_in_the_order_that_they_were_made(tmp_path: Path) -> None:
    assert read_notes(tmp_path) == []
    add_note(tmp_path, "one")
    add_note(tmp_path, "two")
    assert read_notes(tmp_path) == ["one", "two"]
