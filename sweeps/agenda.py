"""What a study has still to train: points of its search, further seeds of those that completed, finalists.

Optuna's own queue holds what is to be trained again (after an interruption, with further seeds), so that it
is there for the next driver too. What belongs into it is read off the trials each time: a driver that was
killed between two steps leaves nothing out and nothing twice.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.leaderboard import best_rows, rank
from sweeps.space import SearchSpace
from sweeps.study import (
    CONFIRMS,
    FINALISTS,
    POINT,
    SEED_OFFSET,
    own_trials,
    point_of,
    seed_offset_of,
    trial_rows,
    was_interrupted,
)

Next = Literal["train", "wait", "finished"]


@dataclass(frozen=True, kw_only=True)
class Agenda:
    """What comes next in a study."""

    study: optuna.Study
    space: SearchSpace

    def next(self, *, searches: bool) -> Next:
        """Whether a trial can be asked for, or only once others have ended, or never again.

        Queues what has become due: further seeds of the points that completed; when the search is over,
        those that confirm its finalists.

        Args:
            searches: Whether new points may still be drawn.
        """
        trials = own_trials(self.study)
        if any(trial.state == TrialState.WAITING for trial in trials) or self._queue_repeats(trials):
            return "train"
        if searches and _num_points(trials) < self.space.search.num_trials:
            return "train"
        if any(trial.state == TrialState.RUNNING for trial in trials):
            return "wait"
        return "train" if self._queue_confirmations(trials) else "finished"

    def _queue_repeats(self, trials: Iterable[FrozenTrial]) -> bool:
        """Queues the further seeds of points whose first training completed: others are not worth it."""
        if self.space.search.repeats == 1:
            return False
        completed = [
            trial
            for trial in trials
            if trial.state == TrialState.COMPLETE and seed_offset_of(trial) == 0 and _is_feasible(trial)
        ]
        return self._queue(completed, trials, range(1, self.space.search.repeats), confirms=False)

    def _queue_confirmations(self, trials: Iterable[FrozenTrial]) -> bool:
        """Queues further seeds of the best points, which are chosen once."""
        confirm, repeats = self.space.confirm, self.space.search.repeats
        if confirm is None:
            return False
        if (finalists := self.study.user_attrs.get(FINALISTS)) is None:
            ranked = rank(trial_rows(self.study, self.space), self.space.objectives, self.space.constraints)
            finalists = [row.point for row in best_rows(ranked)][: confirm.top]
            self.study.set_user_attr(FINALISTS, finalists)
        first = {trial.number: trial for trial in trials}
        offsets = range(repeats, repeats + confirm.seeds)
        return self._queue([first[number] for number in finalists], trials, offsets, confirms=True)

    def _queue(
        self, firsts: Iterable[FrozenTrial], trials: Iterable[FrozenTrial], offsets: range, *, confirms: bool
    ) -> bool:
        """Queues the seeds of points that were not tried yet; whether there were any."""
        tried: dict[int, set[int]] = defaultdict(set)
        for trial in trials:
            if not was_interrupted(trial):
                tried[point_of(trial)].add(seed_offset_of(trial))
        queued = False
        for first in firsts:
            for offset in offsets:
                if offset not in tried[first.number]:
                    attributes = {POINT: first.number, SEED_OFFSET: offset, CONFIRMS: confirms}
                    self.study.enqueue_trial(first.params, user_attrs=attributes)
                    queued = True
        return queued


def _num_points(trials: Iterable[FrozenTrial]) -> int:
    """Points that were drawn, less those whose training was interrupted: they are drawn again."""
    return sum(seed_offset_of(trial) == 0 and not was_interrupted(trial) for trial in trials)


def _is_feasible(trial: FrozenTrial) -> bool:
    return all(violation <= 0 for violation in trial.constraints.values()) if trial.constraints else True
