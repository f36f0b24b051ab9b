"""What ends a sweep before its trials are used up."""

import time

import optuna
from optuna.trial import TrialState

from sweeps.space import SearchSpace
from sweeps.study import DRIVEN, OUTCOME, own_trials


class Budget:
    """Counts what a sweep has used, over all drivers of its study.

    A target ends the search: what runs may end, finalists are confirmed. Hours end everything.
    """

    def __init__(self, study: optuna.Study, space: SearchSpace):
        """Counts from now on, beside what former drivers used."""
        self._settings = space.budget
        self._maximize = space.objectives[0].direction == "maximize"
        self._gpus = space.resources.gpus_per_worker * space.resources.workers_per_trial
        self._began = time.monotonic()
        self._driven_before = 0.0
        self._running: dict[int, float] = {}
        self._trial_seconds = 0.0
        self._reached: int | None = None
        for trial in own_trials(study):
            if trial.state == TrialState.COMPLETE:
                self._look_at(trial.number, trial.values[0])
            outcome = trial.user_attrs.get(OUTCOME, {})
            self._trial_seconds += outcome.get("seconds", 0.0)
            self._driven_before = max(self._driven_before, outcome.get(DRIVEN, 0.0))

    @property
    def driven_seconds(self) -> float:
        """How long the sweep has been driven."""
        return self._driven_before + time.monotonic() - self._began

    def begin(self, number: int) -> None:
        """A trial begins."""
        self._running[number] = time.monotonic()

    def end(self, number: int, value: float | None) -> float:
        """A trial ended.

        Args:
            value: Of the first objective, where it completed.

        Returns:
            For how many seconds it held what it was given.
        """
        seconds = time.monotonic() - self._running.pop(number)
        self._trial_seconds += seconds
        if value is not None:
            self._look_at(number, value)
        return seconds

    def search_is_over(self) -> str | None:
        """Why no new point may be drawn, in a sentence; None while one may."""
        if self._reached is not None:
            return f"trial {self._reached} reached budget.target ({self._settings.target:g})"
        return self.is_used_up()

    def is_used_up(self) -> str | None:
        """Why everything ends, in a sentence; None while nothing does."""
        hours, gpu_hours = self._settings.hours, self._settings.gpu_hours
        if hours is not None and self.driven_seconds >= hours * 3600:
            return f"budget.hours ({hours:g}) was used up"
        if gpu_hours is not None and self._gpu_seconds() >= gpu_hours * 3600:
            return f"budget.gpu_hours ({gpu_hours:g}) was used up"
        return None

    def _gpu_seconds(self) -> float:
        now = time.monotonic()
        return self._gpus * (self._trial_seconds + sum(now - began for began in self._running.values()))

    def _look_at(self, number: int, value: float) -> None:
        """Notes the first trial that is good enough."""
        target = self._settings.target
        if target is None or self._reached is not None:
            return
        if value >= target if self._maximize else value <= target:
            self._reached = number
