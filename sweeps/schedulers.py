"""Which trials go on after an epoch, and which are stopped: Ray Tune's schedulers, set up for a space."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from sweeps.lineage import Exploit
from sweeps.population import Population
from sweeps.space import SearchSpace

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

MEDIAN_OF = 5
"""Other trials that must have come as far before the median rule compares one with them."""


def make_scheduler(
    space: SearchSpace, *, on_exploit: Callable[[Exploit], None] | None = None
) -> TrialScheduler:
    """Makes the scheduler that a search space names. Its clock is a trial's own `epoch`.

    Args:
        on_exploit: Told when a trial of a population goes on from another's state.
    """
    settings, objective = space.scheduler, space.objectives[0]
    compared: dict[str, Any] = {
        "time_attr": "epoch",
        "metric": objective.metric,
        "mode": {"maximize": "max", "minimize": "min"}[objective.direction],
    }
    match settings.name:
        case "none":
            return FIFOScheduler()
        case "median":
            return _Median(
                **compared,
                grace_period=space.first_rung,
                min_samples_required=MEDIAN_OF,
                min_time_slice=math.inf,  # none makes way for another: it would be begun twice
            )
        case "pbt":
            return Population(space, **compared, on_exploit=on_exploit)
        case "asha" | "hyperband":
            return _Halving(
                **compared,
                grace_period=space.first_rung,
                reduction_factor=settings.reduction_factor,
                brackets=settings.brackets if settings.name == "hyperband" else 1,
                # Beyond the last epoch: at max_t it stops even a trial that is about to complete.
                max_t=space.max_epochs + 1,
            )


class _Sparing(FIFOScheduler):
    """Takes the attempts of a trial for one trial, and lets those of further seeds come to their end.

    An attempt after the first is another trial to Tune, which reports from the epoch after the last of the
    one before. It is judged under the name of the first, by all that was reported under it.
    """

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._first: dict[int, Trial] = {}

    def on_trial_add(self, tune_controller: "TuneController", trial: Trial) -> None:
        if trial.config["spared"] or trial.config["number"] in self._first:
            return
        self._first[trial.config["number"]] = trial
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]) -> str:
        if trial.config["spared"]:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, self._first[trial.config["number"]], result)

    def on_trial_complete(
        self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]
    ) -> None:
        if not trial.config["spared"]:
            super().on_trial_complete(tune_controller, self._first[trial.config["number"]], result)

    def on_trial_remove(self, tune_controller: "TuneController", trial: Trial) -> None:
        if not trial.config["spared"]:
            super().on_trial_remove(tune_controller, self._first[trial.config["number"]])


class _Halving(_Sparing, AsyncHyperBandScheduler):
    """Li et al.; see `SchedulerSettings`."""


class _Median(_Sparing, MedianStoppingRule):
    """Golovin et al.; see `SchedulerSettings`."""
