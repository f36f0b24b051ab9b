"""Where Tune's trials come from: points that Optuna draws from the search space, one at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from ray.tune.search import Searcher

from distill.checkpoint import LAST, PREVIOUS, has_state
from distill.config import TrialConfig
from distill.evaluation import LATENCY, latency_of, static_efficiency_of
from sweeps.agenda import Agenda
from sweeps.budget import Budget
from sweeps.home import StudyFolder
from sweeps.ledger import Ledger
from sweeps.space import SearchSpace
from sweeps.study import ACCUMULATION, CONTINUES, DIRECTORY, EPOCHS, SEED_OFFSET
from sweeps.task import TrialTask


class StudySearcher(Searcher):
    """Asks Optuna for points until the sweep's agenda is done.

    What comes of them is told by the ledger, which hears of every report and every end. Here Tune learns
    nothing but what to run next.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        *,
        folder: StudyFolder,
        ledger: Ledger,
        budget: Budget,
        room: Callable[[], float],
    ):
        """Searches `study`.

        Args:
            room: How many trials may run at once, asked each time.
        """
        super().__init__()
        self._study = study
        self._space = space
        self._folder = folder
        self._ledger = ledger
        self._budget = budget
        self._room = room
        self._agenda = Agenda(study=study, space=space)
        self._known: dict[str, dict[str, float]] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial's task; None while running ones hold all the room or decide what comes; `FINISHED`
        at the end.

        A student that breaks a constraint which needs no training costs nothing: it is told infeasible
        here, and the next point is drawn.
        """
        if self._budget.is_used_up() or self._ledger.disk_full:
            return Searcher.FINISHED
        if self._ledger.num_open >= self._room():
            return None
        if again := self._ledger.reopen(tune_id=trial_id):
            return again
        while (now := self._agenda.next(searches=not self._budget.search_is_over())) == "train":
            trial = self._study.ask()
            seed_offset = trial.user_attrs.get(SEED_OFFSET, 0)
            config = self._space.config(self._space.sample(trial), seed_offset=seed_offset)
            task = self._task(trial, config)
            trial.set_user_attr(DIRECTORY, task["directory"])
            known = self._efficiency(config)
            self._ledger.open(trial, config, task, tune_id=trial_id, known=known)
            if not (broken := self._space.broken_constraints(known)):
                return task
            self._ledger.close_infeasible(trial_id, "; ".join(broken))
        return None if now == "wait" else Searcher.FINISHED

    def _task(self, trial: optuna.Trial, config: TrialConfig) -> TrialTask:
        continued = self._continued(trial)
        minutes = self._space.resources.timeout_minutes
        return {
            "number": trial.number,
            "config": config.model_dump(mode="json"),
            "directory": str(self._folder.trial(trial.number)),
            "continue_from": None if continued is None else str(self._folder.trial(continued)),
            "told_epochs": self._told_epochs(continued),
            "accumulation": trial.user_attrs.get(ACCUMULATION, 1),
            "timeout_s": None if minutes is None else minutes * 60,
            "spared": SEED_OFFSET in trial.user_attrs,
            "point": trial.params,
        }

    def _continued(self, trial: optuna.Trial) -> int | None:
        """Whose state a trial goes on from: the last that has one of those interrupted at its point."""
        number: int | None = trial.user_attrs.get(CONTINUES)
        while number is not None and not self._has_state(self._folder.trial(number)):
            number = self._study.get_trials(deepcopy=False)[number].user_attrs.get(CONTINUES)
        return number

    def _has_state(self, directory: Path) -> bool:
        if self._folder.depot is None:
            return has_state(directory)
        return not self._folder.depot.names(directory).isdisjoint((LAST, PREVIOUS))

    def _told_epochs(self, continued: int | None) -> int:
        """How many epochs of the trial that is gone on with need not be told again, to its new record.

        All are told: what the best of them was worth counts. But a population's would be moved for results
        that were acted upon before: of these the last is.
        """
        if continued is None or self._space.scheduler.name != "pbt":
            return 0
        before = self._study.get_trials(deepcopy=False)[continued]
        return max(max(before.intermediate_values, default=before.user_attrs.get(EPOCHS, 0)) - 1, 0)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it is given, to restore it, and a sweep is resumed from its study."""
        return {}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the ledger tells."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is in its database, and a sweep is resumed from there."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""

    def get_state(self) -> dict[str, Any]:
        """Empty: see `save`."""
        return {}

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: see `save`."""

    def _efficiency(self, config: TrialConfig) -> dict[str, float]:
        """What is known of a student before it is trained; timed only where the search asks for it."""
        shape = {"embedding_dim": config.student_dim(), "size_px": config.faces.size_px}
        key = f"{config.student.model_dump_json()} {shape}"
        if key not in self._known:
            known = static_efficiency_of(config.student, **shape)
            if self._space.needs_latency:
                known |= {LATENCY: latency_of(config.student, **shape)}
            self._known[key] = known
        return dict(self._known[key])
