"""Which trials' students stay on disk: the best of a sweep; and no state of a training that ended."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from distill.checkpoint import BEST
from sweeps.depot import students
from sweeps.home import StudyFolder
from sweeps.leaderboard import TrialRow, rank
from sweeps.space import SearchSpace


class Shelf:
    """Keeps the students of the best trials, and takes the others away as better ones come."""

    def __init__(self, space: SearchSpace, folder: StudyFolder, rows: Iterable[TrialRow]):
        """Begins with what former drivers kept."""
        self._space = space
        self._folder = folder
        self._kept = [row for row in rows if self.student(row.number).is_dir()]

    def student(self, number: int) -> Path:
        """The folder of a trial's best student, which need not exist."""
        return self._folder.trial(number) / BEST

    def put(self, row: TrialRow) -> None:
        """A trial ended: its state goes, the student of one that failed, and those beyond the best."""
        # Members of a population go on from one another's states, also from those that ended.
        if self._space.scheduler.name != "pbt":
            for state in self._folder.trial(row.number).glob("*.pt*"):
                state.unlink()
            if self._folder.depot is not None:
                self._folder.depot.drop(self._folder.trial(row.number), lambda name: not students(name))
        if not self.student(row.number).is_dir():
            return
        if row.state not in ("complete", "pruned"):
            self._take_away(row.number)
            return
        self._kept.append(row)
        ranked = rank(self._kept, self._space.objectives, self._space.constraints)
        self._kept = ranked[: self._space.keep.students]
        for surplus in ranked[self._space.keep.students :]:
            self._take_away(surplus.number)

    def _take_away(self, number: int) -> None:
        shutil.rmtree(self.student(number))
        if self._folder.depot is not None:
            self._folder.depot.drop_path(self.student(number))
