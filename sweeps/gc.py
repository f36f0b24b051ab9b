"""What a study leaves on disk that no record needs, and taking it away."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distill.checkpoint import BEST
from distill.errors import RefusedError
from sweeps.depot import is_own
from sweeps.home import Home, StudyFolder
from sweeps.leaderboard import rank
from sweeps.study import load_study, read_space, trial_rows

TUNE = "Ray's own notes of runs that ended"


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
    if (depot := folder.depot) is not None:  # what nothing needs is seen once it is here
        for left in depot.folders(folder.trials):
            depot.pull(left)
    ranked = rank(trial_rows(study, space), space.objectives, space.constraints)
    resumable = {row.number for row in ranked if row.state in ("running", "interrupted")}
    able = [row.number for row in ranked if row.state in ("complete", "pruned")]
    have_students = [number for number in able if (folder.trial(number) / BEST).is_dir()]
    kept = set(have_students[: space.keep.students])
    found = [
        Garbage(path=path, reason=reason, num_bytes=_size(path))
        for path, reason in _found(
            folder, numbers={row.number for row in ranked}, kept=kept, resumable=resumable
        )
    ]
    if depot is not None and (num_bytes := depot.size(folder.tune)):
        found.append(Garbage(path=folder.tune, reason=TUNE, num_bytes=num_bytes))
    return found


def collect(found: list[Garbage], home: Home) -> None:
    """Takes it away."""
    depot = home.depot
    for item in found:
        if depot is not None:
            depot.clear(item.path) if item.reason == TUNE else depot.drop_path(item.path)
        if not item.path.exists():
            continue
        if item.path.is_dir():
            shutil.rmtree(item.path)
        else:
            item.path.unlink()


def _found(
    folder: StudyFolder, *, numbers: set[int], kept: set[int], resumable: set[int]
) -> Iterator[tuple[Path, str]]:
    if folder.tune.exists():
        yield folder.tune, TUNE
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
            if not is_own(unfinished):
                yield unfinished, "was being written when its process ended"
        if (trial / BEST).is_dir() and number not in kept:
            yield trial / BEST, "a student beyond those kept"


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
