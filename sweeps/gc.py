"""What a study leaves on disk that no record needs, and taking it away."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distill.checkpoint import BEST
from distill.errors import RefusedError
from sweeps.home import Home, StudyFolder
from sweeps.leaderboard import rank
from sweeps.study import load_study, read_space, trial_rows


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """A file or folder that nothing needs, and why.

    Attributes:
        num_bytes: What it takes on disk.
    """

    path: Path
    reason: str
    num_bytes: int


def garbage(home: Home, name: str) -> list[Garbage]:
    """What can go of a study: folders of no trial, states of ended trainings, students beyond those kept.

    Students that the registry holds are copies of their own, which this does not touch.

    Raises:
        InputError: If there is no such study.
        RefusedError: If a driver holds it.
    """
    space, study = read_space(home, name), load_study(home, name)
    folder = home.study(name)
    if (pid := folder.read_driver_pid()) is not None:
        raise RefusedError(f"study {name} is being driven by process {pid}: wait for its end, or stop it")
    ranked = rank(trial_rows(study, space), space.objectives, space.constraints)
    resumable = {row.number for row in ranked if row.state in ("running", "interrupted")}
    able = [row.number for row in ranked if row.state in ("complete", "pruned")]
    have_students = [number for number in able if (folder.trial(number) / BEST).is_dir()]
    kept = set(have_students[: space.keep.students])
    return [
        Garbage(path=path, reason=reason, num_bytes=_size(path))
        for path, reason in _found(
            folder, numbers={row.number for row in ranked}, kept=kept, resumable=resumable
        )
    ]


def collect(found: list[Garbage]) -> None:
    """Takes it away."""
    for item in found:
        if item.path.is_dir():
            shutil.rmtree(item.path)
        else:
            item.path.unlink()


def _found(
    folder: StudyFolder, *, numbers: set[int], kept: set[int], resumable: set[int]
) -> Iterator[tuple[Path, str]]:
    if (tune := folder.root / "tune").exists():
        yield tune, "Ray's own notes of runs that ended"
    for trial in sorted(folder.trials.glob("*")):
        number = int(trial.name) if trial.name.isdigit() else None
        if number not in numbers:
            yield trial, "no trial of the study"
            continue
        if number in resumable:
            continue
        for state in sorted(trial.glob("*.pt*")):
            yield state, "the state of a training that ended"
        for unfinished in sorted(trial.glob(".*")):
            yield unfinished, "was being written when its process ended"
        if (trial / BEST).is_dir() and number not in kept:
            yield trial / BEST, "a student beyond those kept"


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
