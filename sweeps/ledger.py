"""What happens in every trial, as Ray Tune sees it, told to Optuna, MLflow and the terminal."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial

from distill.checkpoint import BEST
from distill.config import TrialConfig
from distill.faces import AnyFacesSettings
from sweeps.home import StudyFolder
from sweeps.leaderboard import State
from sweeps.space import SearchSpace
from sweeps.study import EPOCHS, INFEASIBLE, OUTCOME, run_attribute, trial_rows
from sweeps.terminal import SweepDisplay
from sweeps.tracking import DatasetRecord, Tracker, flatten


@dataclass
class _Open:
    """A trial that has begun and not ended."""

    trial: optuna.Trial
    config: TrialConfig
    began: float = field(default_factory=time.monotonic)
    best: dict[str, float] = field(default_factory=dict)
    epochs: int = 0


class Ledger(Callback):
    """The one place where a trial's fate is decided and written down.

    Complete: it reported every epoch. Pruned: Tune stopped it before. Failed: it raised, and its reason is
    kept. What a trial is worth is what its best epoch measured: that is the student it would hand over.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        *,
        folder: StudyFolder,
        tracker: Tracker,
        display: SweepDisplay,
    ):
        self._study = study
        self._space = space
        self._folder = folder
        self._tracker = tracker
        self._display = display
        self._datasets: dict[str, list[DatasetRecord]] = {}
        self._open: dict[str, _Open] = {}

    @property
    def num_running(self) -> int:
        """Trials that have begun and not ended."""
        return len(self._open)

    def note_run(self, number: int, run_id: str) -> None:
        """Keeps a trial's MLflow run in Optuna.

        Called from the tracker's thread, maybe after the trial ended, when Optuna lets nobody write to it
        any more: so the study holds it.
        """
        self._study.set_user_attr(run_attribute(number), run_id)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it is given, to restore it, and a sweep is resumed from its study."""
        return {}

    def reconcile(self) -> None:
        """Brings MLflow in line with Optuna, after a driver that died between the two.

        Every trial ends with one run, closed as the trial was: the missing are made, the open are closed.
        """
        children = self._tracker.adopt_children()
        for row in trial_rows(self._study, self._space):
            run = children.get(row.number)
            if run is None:
                self._start_run(row.number, row.params, self._space.config(row.params))
            elif run.info.status != "RUNNING":
                continue
            self._tracker.finish_trial(
                row.number,
                state=row.state,
                reason=row.reason,
                best=row.metrics,
                student=self._folder.trial(row.number) / BEST if row.state == "complete" else None,
            )
            if run is not None:
                self.note_run(row.number, run.info.run_id)

    def open(self, trial: optuna.Trial, config: TrialConfig, *, tune_id: str) -> None:
        """Begins a trial."""
        self._open[tune_id] = _Open(trial=trial, config=config)
        self._start_run(trial.number, trial.params, config)
        self._display.trial_started(trial.number, trial.params)

    def close_infeasible(self, tune_id: str, metrics: dict[str, float], reason: str) -> None:
        """Ends a trial that need not be trained: it breaks a constraint on what is known beforehand."""
        opened = self._open[tune_id]
        opened.best = dict(metrics)
        self._close(tune_id, "infeasible", reason=f"{INFEASIBLE}: {reason}")

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: Any, **info: Any
    ):
        """One epoch's report."""
        opened = self._open[trial.trial_id]
        epoch = int(result["epoch"])
        metrics = {name: value for name, value in result.items() if "/" in name and isinstance(value, float)}
        selection = opened.config.selection
        value = metrics[selection.metric]
        if not opened.best or selection.better(value, opened.best[selection.metric]):
            opened.best = metrics
        opened.epochs = epoch
        if len(self._space.objectives) == 1:
            opened.trial.report(value, epoch)
        opened.trial.set_user_attr(EPOCHS, epoch)
        self._tracker.log_epoch(opened.trial.number, epoch=epoch, metrics=metrics)
        self._display.trial_epoch(opened.trial.number, epoch, opened.config.training.epochs, value)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any):
        """Tune let it go: at its last epoch, or earlier because others did better."""
        opened = self._open[trial.trial_id]
        if opened.epochs == opened.config.training.epochs:
            self._close(trial.trial_id, "complete")
        else:
            self._close(trial.trial_id, "pruned", reason=f"stopped early after epoch {opened.epochs}")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any):
        """It raised."""
        self._close(trial.trial_id, "failed", reason=_failure(trial))

    def _start_run(self, number: int, params: Mapping[str, Any], config: TrialConfig) -> None:
        self._tracker.start_trial(
            number,
            name=run_name(number, params, config),
            params=flatten(config.model_dump(mode="json")) | config.equivalents(),
            tags={
                "method": config.method.name,
                "student": config.student.name,
                "student_init": config.student.init,
                "seed": str(config.seed),
            },
            datasets=lambda: self._dataset_records(config.faces),
            config_json=config.model_dump_json(indent=2),
        )

    def _dataset_records(self, faces: AnyFacesSettings) -> list[DatasetRecord]:
        """The faces of a trial, for its record. Made once for all trials that share them."""
        source = faces.model_dump_json()
        if source not in self._datasets:
            validation = faces.validation_pairs()
            self._datasets[source] = [
                DatasetRecord(
                    name=f"{faces.name}-training",
                    digest=faces.training_digest(),
                    context="training",
                    source=source,
                    is_drawn=faces.draws,
                ),
                DatasetRecord(
                    name=validation.name,
                    digest=validation.digest,
                    context="validation",
                    source=source,
                    is_drawn=faces.name == "embedded",
                ),
            ]
        return self._datasets[source]

    def _close(self, tune_id: str, state: State, *, reason: str | None = None) -> None:
        opened = self._open.pop(tune_id)
        trial, best = opened.trial, opened.best
        seconds = time.monotonic() - opened.began
        trial.set_user_attr(OUTCOME, {"reason": reason, "metrics": best, "seconds": seconds})
        for constraint in self._space.constraints:
            if constraint.metric in best:
                trial.set_constraint(constraint.metric, constraint.violation(best[constraint.metric]))
        match state:
            case "complete":
                self._study.tell(trial, [best[objective.metric] for objective in self._space.objectives])
            case "failed":
                self._study.tell(trial, state=TrialState.FAIL)
            case _:
                self._study.tell(trial, state=TrialState.PRUNED)
        self._tracker.finish_trial(
            trial.number,
            state=state,
            reason=reason,
            best=best,
            student=self._folder.trial(trial.number) / BEST if state == "complete" else None,
        )
        value = best.get(self._space.objectives[0].metric)
        self._display.trial_finished(trial.number, state, value, seconds)


def run_name(number: int, params: Mapping[str, Any], config: TrialConfig) -> str:
    """A run's name for people: its number, student and method, and two numbers that set it apart."""
    numbers = [
        f"{name.rsplit('.', 1)[-1]}={value:.3g}" for name, value in params.items() if isinstance(value, float)
    ]
    return " ".join([f"{number:03d}", config.student.name, config.method.name, *numbers[:2]])


def _failure(trial: TuneTrial) -> str:
    """What a failed trial says of itself: the last line of its traceback, an error and its message."""
    file = trial.error_file
    lines = Path(file).read_text().split("\n") if file and Path(file).exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it ended without saying why")
