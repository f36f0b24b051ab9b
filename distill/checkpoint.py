"""What a trial leaves on disk: the resumable state of its training, and its best student.

Two different things in two different files. `last.pt` continues a training (weights, optimiser, random
streams), and `previous.pt` does an epoch earlier, should `last.pt` be damaged; a student's folder
(`student.safetensors` and `student.json`) is all that is evaluated, promoted and served. Every file is
written beside its place and then moved there, so none is ever half-written. `notes.txt` holds what whoever
runs the trial should know, a sentence a line.
"""

import functools
import hashlib
import io
import itertools
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from distill.errors import InputError
from distill.settings import Settings
from distill.students import AnyStudentSettings

LAST = "last.pt"
PREVIOUS = "previous.pt"
NOTES = "notes.txt"
BEST = "best"
WEIGHTS = "student.safetensors"
CARD = "student.json"


class StudentCard(Settings):
    """What must be known to rebuild a student around its weights, and where it comes from."""

    student: AnyStudentSettings
    """The student's architecture."""
    embedding_dim: int
    """Width of its embeddings."""
    size_px: int
    """Side of the faces that it takes: RGB, float32, in [-1, 1]."""
    captured_px: int | None = None
    """Side of the photographs that were reduced to `size_px` for it. None: they were taken at `size_px`."""
    epoch: int
    """The epoch after which the weights were taken."""
    metrics: dict[str, float]
    """What was reported after that epoch."""
    teacher_digest: str
    """The teacher that it was distilled from."""
    sha256: str
    """Of the weights' file."""

    def build(self) -> nn.Module:
        """The student, untrained, in evaluation mode."""
        return self.student.build(embedding_dim=self.embedding_dim, size_px=self.size_px).eval()


def save_state(state: dict[str, Any], directory: Path) -> None:
    """Writes the state that `load_state` continues from: tensors and plain types only.

    The state before it is kept. At every instant one of the two is whole and in its place.
    """
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".last-", delete=False) as file:
        try:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:  # a full disk, of which this would take more
            os.unlink(file.name)
            raise
    if (directory / LAST).exists():
        os.replace(directory / LAST, directory / PREVIOUS)
    os.replace(file.name, directory / LAST)


def has_state(directory: Path) -> bool:
    """Whether `directory` holds the state of a finished epoch, be it damaged or not."""
    return any((directory / name).exists() for name in (LAST, PREVIOUS))


def load_state(directory: Path, *, tell: Callable[[str], None]) -> dict[str, Any] | None:
    """The state of the last finished epoch, on the CPU; None when no epoch was finished.

    A damaged file is put aside, and the state before it is taken.

    Args:
        tell: Told in a sentence when a file is damaged.
    """
    state, damaged = None, []
    for path in (directory / LAST, directory / PREVIOUS):
        if state is not None or not path.exists():
            continue
        content = path.read_bytes()
        try:
            state = _read_state(content)
        # Whatever zipfile, pickle and torch make of bytes that are not what was written.
        except Exception as error:
            if isinstance(error, MemoryError) or "allocate memory" in str(error):
                raise
            damaged.append(path.name)
            os.replace(path, path.with_name(f"{path.name}.damaged"))
    if damaged:
        outcome = "the training begins anew" if state is None else f"the training goes on from {PREVIOUS}"
        names = " and ".join(damaged)
        tell(f"damaged and put aside in {directory}: {names}; {outcome}")
    return state


def link_state(directory: Path, folder: Path) -> None:
    """Puts the state of `directory` into another folder, which keeps it when it is replaced."""
    try:
        os.link(directory / LAST, folder / LAST)
    except OSError:  # of another file system, or one without links
        shutil.copyfile(directory / LAST, folder / LAST)


def take_over_state(donor: Path, directory: Path) -> None:
    """Lets the trial in `directory` go on from another's state, with its own best student to beat.

    What the other's epochs measured stays the other's.
    """
    tell = functools.partial(add_note, directory)
    own, state = load_state(directory, tell=tell), load_state(donor, tell=tell)
    if state is not None:
        best = own["best"] if own is not None else {}
        save_state({**state, "best": best, "history": []}, directory)


def clear_rests(directory: Path) -> None:
    """Removes what a process left behind that was killed while it wrote a state or a student."""
    rests = (directory.glob(pattern) for pattern in (".last-*", f".{BEST}-*", ".shared-*"))
    for rest in itertools.chain(*rests):
        if rest.is_dir():
            shutil.rmtree(rest, ignore_errors=True)
        else:
            rest.unlink(missing_ok=True)


def add_note(directory: Path, sentence: str) -> None:
    """Adds to what whoever runs the trial in `directory` should know."""
    with (directory / NOTES).open("a") as notes:
        notes.write(f"{sentence}\n")


def read_notes(directory: Path) -> list[str]:
    """What whoever runs the trial in `directory` should know, a sentence each, oldest first."""
    path = directory / NOTES
    return path.read_text().splitlines() if path.exists() else []


def _read_state(content: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch does not look at checksums
        if (record := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {record} is wrong")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def save_student(network: nn.Module, directory: Path, **card: Any) -> StudentCard:
    """Replaces the student in `directory` by `network`, whole.

    Args:
        card: The fields of `StudentCard`, less the digest of the weights.
    """
    fresh = _folder_beside(directory)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, fresh / WEIGHTS)
    written = StudentCard(**card, sha256=sha256_of(fresh / WEIGHTS))
    (fresh / CARD).write_text(written.model_dump_json(indent=2))
    _put_in_place(fresh, directory)
    return written


def copy_student(source: Path, directory: Path) -> None:
    """Replaces the student in `directory` by a copy of another, whole; where there is none, it is left."""
    if not source.is_dir():
        return
    fresh = _folder_beside(directory)
    for name in (WEIGHTS, CARD):
        shutil.copyfile(source / name, fresh / name)
    _put_in_place(fresh, directory)


def _folder_beside(directory: Path) -> Path:
    directory.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))


def _put_in_place(fresh: Path, directory: Path) -> None:
    fresh.chmod(0o755)
    stale = fresh.with_name(fresh.name + "-stale")
    if directory.exists():
        os.replace(directory, stale)
    os.replace(fresh, directory)
    shutil.rmtree(stale, ignore_errors=True)


def read_card(directory: Path) -> StudentCard:
    """Reads what a student's folder says of itself.

    Raises:
        InputError: If there is no such folder, or its card is not one.
    """
    try:
        return TypeAdapter(StudentCard).validate_json((directory / CARD).read_bytes())
    except NotADirectoryError:
        raise InputError(f"{directory} is not a student's folder: it is a file") from None
    except FileNotFoundError:
        raise InputError(f"{directory} is not a student's folder: it has no {CARD}") from None
    except (ValidationError, json.JSONDecodeError) as error:
        raise InputError(f"{directory / CARD} is not a student's card: {error}") from error


def load_student(directory: Path) -> tuple[nn.Module, StudentCard]:
    """Rebuilds a student, every tensor of it, in evaluation mode. Nothing is unpickled.

    Raises:
        InputError: If the folder is incomplete, or its weights are not those that its card names.
    """
    card = read_card(directory)
    path = directory / WEIGHTS
    if not path.exists():
        raise InputError(f"{directory} is not a student's folder: it has no {WEIGHTS}")
    if (digest := sha256_of(path)) != card.sha256:
        raise InputError(f"{path} has sha256 {digest}, its card says {card.sha256}")
    with torch.device("meta"):  # every tensor comes from the file: nothing is drawn, nor read for a start
        student = card.build()
    try:
        student.load_state_dict(load_file(path), assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path} does not fit a {card.student.name}: {error}") from error
    return student, card


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
