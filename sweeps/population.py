"""Population based training: the worst trials go on from the best, with settings changed a little.

Jaderberg et al., "Population Based Training of Neural Networks", 2017. https://arxiv.org/abs/1711.09846

Ray Tune's implementation, on trials that train in place. A trial changes every few epochs, whenever it comes
there: nobody waits for the others, whose latest reports it is compared with. All trials of the search are one
population, and each should have a place of its own to run: where they take turns, those that come first in a
turn are compared with what others were an interval earlier, and are rarely among the worst.
"""

import functools
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from distill.errors import InputError
from sweeps.lineage import Exploit, record
from sweeps.space import SearchSpace
from sweeps.space.parameters import AnyParameter, CategoricalParameter, Scalar
from sweeps.task import TrialTask

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

RESAMPLED = 0.25
"""How often a parameter is drawn anew, rather than changed a little."""
CHANGE = 0.2
"""A changed number is 0.8 or 1.2 times what it was."""


class Population(PopulationBasedTraining):
    """Tune's scheduler, which changes a `TrialTask` and keeps whose it is.

    Args:
        space: Whose parameters may all change in training, which is checked when it is read.
        compared: `time_attr`, `metric` and `mode` of Tune's.
        on_exploit: Told each change, once it is in the trial's lineage.
    """

    def __init__(
        self, space: SearchSpace, *, on_exploit: Callable[[Exploit], None] | None = None, **compared: Any
    ):
        super().__init__(
            **compared,
            perturbation_interval=space.scheduler.perturb_epochs,
            custom_explore_fn=functools.partial(explored, space=space, rng=random.Random(space.search.seed)),
            log_config=False,
        )
        self._on_exploit = on_exploit
        self._latest: dict[int, Trial] = {}

    def on_trial_add(self, tune_controller: "TuneController", trial: Trial) -> None:
        """Takes a trial in; a further attempt of one takes its place."""
        # Tune refuses searchers, which would learn from points that changed; ours learns from the ledger.
        super().on_trial_add(cast(Any, SimpleNamespace(search_alg=None)), trial)
        before = self._latest.get(trial.config["number"])
        if before is not None:
            state, former = self._trial_state[trial], self._trial_state[before]
            state.last_perturbation_time = former.last_perturbation_time
        self._latest[trial.config["number"]] = trial

    def on_trial_result(self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]) -> str:
        """Lets a trial go on, or from another's state; after its last epoch there is nothing to change."""
        if result["epoch"] == trial.config["config"]["training"]["epochs"]:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        task, operations = super()._get_new_config(trial, trial_to_clone)
        return {**trial.config, "config": task["config"], "point": task["point"]}, operations

    def _exploit(self, tune_controller: "TuneController", trial: Trial, trial_to_clone: Trial) -> None:
        before, epoch = trial.config["point"], self._trial_state[trial].last_train_time
        super()._exploit(tune_controller, trial, trial_to_clone)
        donated = self._trial_state[trial_to_clone].last_result
        assert donated is not None
        exploit = Exploit(
            trial=trial.config["number"],
            donor=trial_to_clone.config["number"],
            epoch=int(epoch),
            donor_epoch=int(cast(float, donated["epoch"])),
            before=before,
            after=trial.config["point"],
        )
        record(exploit, Path(trial.config["directory"]))
        if self._on_exploit is not None:
            self._on_exploit(exploit)


def explored(task: TrialTask, *, space: SearchSpace, rng: random.Random) -> TrialTask:
    """The task with every parameter of its point changed; as it was, where that gives no valid trial."""
    point = {name: changed(space.parameters[name], value, rng) for name, value in task["point"].items()}
    try:
        config = space.config(point)
    except InputError:
        return task
    return {**task, "point": point, "config": config.model_dump(mode="json")}


def changed(parameter: AnyParameter, value: Scalar, rng: random.Random) -> Scalar:
    """A value near another, or now and then any, in the parameter's own range and choices.

    A number moves by a fifth of itself, and by one step at least where it has steps; 0 stays until it is
    drawn anew where it has none. A choice becomes one of its neighbours.
    """
    is_drawn = rng.random() < RESAMPLED
    if isinstance(parameter, CategoricalParameter):
        if is_drawn:
            return rng.choice(parameter.choices)
        place = parameter.choices.index(value) + rng.choice((-1, 1))
        return parameter.choices[min(max(place, 0), len(parameter.choices) - 1)]
    low, high, step = parameter.low, parameter.high, parameter.step
    if is_drawn and parameter.log:
        moved = math.exp(rng.uniform(math.log(low), math.log(high)))
    elif is_drawn:
        moved = rng.uniform(low, high)
    else:
        moved = float(value) + rng.choice((-1, 1)) * max(CHANGE * abs(float(value)), step or 0.0)
    if step is not None:
        moved = low + round((moved - low) / step) * step
    moved = min(max(moved, low), high)
    return round(moved) if parameter.type == "int" else round(moved, 12) if step else moved
