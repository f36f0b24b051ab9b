"""What happens in every trial, as Ray Tune sees it, told to Optuna, MLflow and the terminal."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial

from distill.checkpoint import read_notes
from distill.config import TrialConfig
from distill.faces import AnyFacesSettings
from sweeps.budget import Budget
from sweeps.depot import students
from sweeps.distributed import free_workers
from sweeps.failures import Failure, failure_of
from sweeps.home import StudyFolder
from sweeps.leaderboard import State
from sweeps.lineage import Exploit
from sweeps.mlflow_pages import run_name
from sweeps.outbox import DatasetRecord
from sweeps.provenance import digests_of
from sweeps.record import ACCUMULATION_TAG
from sweeps.shelf import Shelf
from sweeps.space import SearchSpace
from sweeps.study import (
    ACCUMULATION,
    ATTEMPTS,
    DRIVEN,
    EPOCHS,
    INFEASIBLE,
    LINEAGE_ATTRIBUTE,
    OUTCOME,
    run_attribute,
    trial_row,
    trial_rows,
)
from sweeps.task import TrialTask
from sweeps.terminal import SweepDisplay
from sweeps.tracking import Tracker, flatten


@dataclass
class _Open:
    """A trial that has begun and not ended.

    Attributes:
        known: Metrics that were known before it was trained.
        best: Metrics of its best epoch so far, those beforehand among them.
        attempts: Why it was begun again, each time.
    """

    trial: optuna.Trial
    config: TrialConfig
    task: TrialTask
    known: dict[str, float]
    best: dict[str, float] = field(default_factory=dict)
    epochs: int = 0
    attempts: list[str] = field(default_factory=list)


class Ledger(Callback):
    """The one place where a trial's fate is decided and written down.

    Complete: it reported every epoch. Pruned: Tune stopped it before. Failed: it raised, and its reason is
    kept; one that lost its process, or ran out of memory, is begun again first, from its last epoch. What a
    trial is worth is what its best epoch measured: that is the student it would hand over.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        *,
        folder: StudyFolder,
        tracker: Tracker,
        display: SweepDisplay,
        budget: Budget,
    ):
        self._study = study
        self._space = space
        self._folder = folder
        self._tracker = tracker
        self._display = display
        self._budget = budget
        self._shelf = Shelf(space, folder, trial_rows(study, space))
        self._datasets: dict[str, list[DatasetRecord]] = {}
        self._open: dict[str, _Open] = {}
        self._again: deque[_Open] = deque()
        self._disk_full: str | None = None

    def student(self, number: int) -> Path | None:
        """The folder of a trial's best student, where it was kept."""
        folder = self._shelf.student(number)
        return folder if folder.is_dir() else None

    @property
    def num_open(self) -> int:
        """How many trials Tune has."""
        return len(self._open)

    @property
    def disk_full(self) -> str | None:
        """What a trial said when it found no space to write; the sweep then cannot go on."""
        return self._disk_full

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
        """Brings the records in line with Optuna, after a driver that died between the two.

        Every trial ends with one run, closed as the trial was: the missing are made, the open are closed.
        """
        recorded = self._tracker.adopt_children()
        for row in trial_rows(self._study, self._space):
            if row.number not in recorded:
                config = self._space.config(row.params, seed_offset=row.seed_offset)
                self._start_run(row.number, row.params, config)
            if recorded.get(row.number) != row.state:
                self._tracker.finish_trial(row.number, state=row.state, reason=row.reason, best=row.metrics)

    def open(
        self,
        trial: optuna.Trial,
        config: TrialConfig,
        task: TrialTask,
        *,
        tune_id: str,
        known: dict[str, float],
    ) -> None:
        """Begins a trial.

        Args:
            known: Metrics that are known before it is trained.
        """
        self._open[tune_id] = _Open(trial=trial, config=config, task=task, known=known)
        self._budget.begin(trial.number)
        self._start_run(trial.number, trial.params, config)
        again = {"seed": config.seed} if task["spared"] else {}
        self._display.trial_started(trial.number, self._space.settings_of(trial.params) | again)

    def reopen(self, *, tune_id: str) -> TrialTask | None:
        """The next trial that is to be begun again; None where there is none."""
        if not self._again:
            return None
        opened = self._again.popleft()
        self._open[tune_id] = opened
        return opened.task

    def close_infeasible(self, tune_id: str, reason: str) -> None:
        """Ends a trial that need not be trained: it breaks a constraint on what is known beforehand."""
        self._open[tune_id].best = dict(self._open[tune_id].known)
        self._close(tune_id, "infeasible", reason=f"{INFEASIBLE}: {reason}")

    def close_all(self, reason: str) -> None:
        """Ends the trials that still run: nothing is left to train them with."""
        for opened in self._again:
            self._open[f"again {opened.trial.number}"] = opened
        self._again.clear()
        for tune_id in list(self._open):
            self._close(
                tune_id, "pruned", reason=f"stopped after epoch {self._open[tune_id].epochs}: {reason}"
            )

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: Any, **info: Any
    ):
        """One epoch's report."""
        opened = self._open[trial.trial_id]
        epoch = int(result["epoch"])
        metrics = {name: value for name, value in result.items() if "/" in name and isinstance(value, float)}
        metrics |= opened.known
        if self._space.scheduler.name == "pbt":  # the settings that trained it, which may change from here on
            point: dict[str, Any] = result["config"]["point"]
            numbers = {name: value for name, value in point.items() if isinstance(value, int | float)}
            metrics |= {f"pbt/{name}": float(value) for name, value in numbers.items()}
        selection = opened.config.selection
        value = metrics[selection.metric]
        if not opened.best or selection.better(value, opened.best[selection.metric]):
            opened.best = metrics
        # Trained again, after its process was lost or from another's state: it was written down before.
        if epoch <= opened.epochs:
            return
        opened.epochs = epoch
        opened.task["told_epochs"] = epoch
        if len(self._space.objectives) == 1:
            opened.trial.report(value, epoch)
        else:  # Optuna takes no value of several objectives before their trial's end
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
        """It raised, or its process is gone."""
        opened = self._open[trial.trial_id]
        free_workers(Path(opened.task["directory"]))
        opened.task["config"], opened.task["point"] = trial.config["config"], trial.config["point"]
        failure = failure_of(trial, Path(opened.task["directory"]), timeout_s=opened.task["timeout_s"])
        if failure.kind == "disk full":  # no trial's fault: it stays open, and is tried again when resumed
            self._disk_full = failure.reason
        elif failure.may_pass and len(opened.attempts) < self._space.resources.retries:
            del self._open[trial.trial_id]
            self._begin_again(opened, failure)
        else:
            self._close(trial.trial_id, "failed", reason=failure.reason)

    def note_exploit(self, exploit: Exploit) -> None:
        """Keeps in Optuna that a trial goes on from another's state."""
        opened = next(o for o in self._open.values() if o.trial.number == exploit.trial)
        lineage = [*opened.trial.user_attrs.get(LINEAGE_ATTRIBUTE, []), exploit.model_dump(mode="json")]
        opened.trial.set_user_attr(LINEAGE_ATTRIBUTE, lineage)
        donors = ", ".join(f"{step['donor']} at epoch {step['donor_epoch']}" for step in lineage)
        self._tracker.tag_trial(exploit.trial, lineage=f"went on from trial {donors}")
        self._display.note(
            f"trial {exploit.trial} goes on from trial {exploit.donor}'s epoch {exploit.donor_epoch}"
        )

    def _begin_again(self, opened: _Open, failure: Failure) -> None:
        reason = f"{failure.kind} after epoch {opened.epochs}: {failure.reason}"
        if failure.kind == "out of memory":
            opened.task["accumulation"] *= 2
            opened.trial.set_user_attr(ACCUMULATION, opened.task["accumulation"])
            times = {f"{ACCUMULATION_TAG}{opened.epochs}": str(opened.task["accumulation"])}
            self._tracker.tag_trial(opened.trial.number, **times)
            reason += f"; batches are now trained in {opened.task['accumulation']} portions"
        opened.attempts.append(reason)
        opened.trial.set_user_attr(ATTEMPTS, opened.attempts)
        self._tracker.note_attempt(opened.trial.number, len(opened.attempts) + 1, reason)
        self._again.append(opened)
        self._display.note(f"trial {opened.trial.number} is begun again, {reason}")

    def _start_run(self, number: int, params: Mapping[str, Any], config: TrialConfig) -> None:
        self._tracker.start_trial(
            number,
            name=run_name(
                number,
                student=config.student.name,
                method=config.method.name,
                params=self._space.settings_of(params),
            ),
            params=flatten(config.model_dump(mode="json")) | config.equivalents(),
            tags={
                "method": config.method.name,
                "student": config.student.name,
                "student_init": config.student.init,
                "seed": str(config.seed),
            },
            datasets=lambda: self._dataset_records(config.faces),
            digests=lambda: digests_of(config),
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
        first = best.get(self._space.objectives[0].metric)
        seconds = self._budget.end(trial.number, first if state == "complete" else None)
        outcome = {"reason": reason, "metrics": best, "seconds": seconds}
        trial.set_user_attr(OUTCOME, outcome | {DRIVEN: self._budget.driven_seconds})
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
        if self._folder.depot is not None:
            self._folder.depot.pull(Path(opened.task["directory"]), students)
        if notes := read_notes(Path(opened.task["directory"])):
            self._tracker.tag_trial(trial.number, note="\n\n".join(notes))
            for note in notes:
                self._display.note(f"trial {trial.number}: {note}")
        self._shelf.put(trial_row(self._study, self._space, trial.number))
        self._tracker.finish_trial(trial.number, state=state, reason=reason, best=best)
        self._display.trial_finished(trial.number, state, first, seconds)
