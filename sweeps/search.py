"""Where Tune's trials come from: points that Optuna draws from the search space, one at a time."""

from typing import Any

import optuna
from ray.tune.search import Searcher

from distill.config import TrialConfig
from distill.evaluation import static_efficiency_of
from sweeps.home import StudyFolder
from sweeps.ledger import Ledger
from sweeps.space import SearchSpace
from sweeps.study import CONTINUES, DIRECTORY, num_told
from sweeps.trial import TrialTask


class StudySearcher(Searcher):
    """Asks Optuna for points until the sweep's budget is told.

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
    ):
        """Searches `study`."""
        super().__init__()
        self._study = study
        self._space = space
        self._folder = folder
        self._ledger = ledger

    def suggest(self, trial_id: str) -> Any:
        """The next trial's task; `FINISHED` when as many were drawn as the budget allows.

        A student that breaks a constraint which needs no training costs nothing: it is told infeasible
        here, and the next point is drawn.
        """
        while num_told(self._study) + self._ledger.num_running < self._space.search.num_trials:
            trial = self._study.ask()
            config = self._space.config(self._space.sample(trial))
            directory = self._folder.trial(trial.number)
            trial.set_user_attr(DIRECTORY, str(directory))
            efficiency = self._efficiency(config)
            self._ledger.open(trial, config, tune_id=trial_id)
            if broken := self._space.broken_constraints(efficiency):
                self._ledger.close_infeasible(trial_id, efficiency, "; ".join(broken))
                continue
            continued = trial.user_attrs.get(CONTINUES)
            task: TrialTask = {
                "number": trial.number,
                "config": config.model_dump(mode="json"),
                "directory": str(directory),
                "continue_from": None if continued is None else str(self._folder.trial(continued)),
                "accumulation": 1,
                "timeout_s": None,
            }
            return task
        return Searcher.FINISHED

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
        return static_efficiency_of(
            config.student,
            embedding_dim=config.student_dim(),
            size_px=config.faces.size_px,
        )
