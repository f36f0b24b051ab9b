"""Checks whether the way that a space is searched serves it: sampler, first points, scheduler, budgets."""

import math
from collections.abc import Callable, Collection, Iterator

from distill.config import TrialConfig
from distill.methods import LabelledSettings, SynthDistillSettings
from sweeps.space.model import SearchSpace
from sweeps.space.parameters import AnyParameter, CategoricalParameter
from sweeps.space.problems import Problem, nearest, shown

MAX_GRID_POINTS = 100_000
_OF_METHODS = (LabelledSettings.BESIDE_THE_SET - {"adapter"}) | SynthDistillSettings.model_fields.keys()
"""Settings of methods that decide neither which faces there are nor what is imitated."""
_STOPPING = ("asha", "hyperband", "median")


def check_search(
    space: SearchSpace, *, unread: Collection[str], unsure: Collection[str]
) -> Iterator[Problem]:
    """What is wrong with how a space is searched.

    Args:
        unread: Parameters that the file has but that could not be read.
        unsure: Keys of the file below which something could not be read: what depends on them is not checked.
    """
    for keys, find in _CHECKS.items():
        if not set(keys) & set(unsure):
            yield from find(space)
    yield from _check_numbers(space, all_are_read=not unread)
    for index, point in enumerate(space.search.enqueue):
        for name in point:
            if name not in unread and (claim := _claim_against_first(space, name, index)):
                yield Problem(("search", "enqueue", index, name), claim)


def refusals_of_the_sweep(
    space: SearchSpace, config: TrialConfig, *, is_stopped_early: bool
) -> Iterator[Problem]:
    """What the sweep's own settings have against a trial.

    Args:
        is_stopped_early: Whether it is known which scheduler may stop it.
    """
    workers, batch_size = space.resources.workers_per_trial, config.training.batch_size
    if batch_size % workers:
        claim = f"must be a multiple of resources.workers_per_trial ({workers}), got {batch_size}"
        yield Problem(("training", "batch_size"), claim)
    if is_stopped_early and (claim := _claim_against_epochs(space, config.training.epochs)):
        yield Problem(("training", "epochs"), claim)


def _claim_against_epochs(space: SearchSpace, epochs: int) -> str | None:
    scheduler, rung = space.scheduler, space.first_rung
    name, told = scheduler.name, scheduler.grace_epochs is not None or rung == 1
    last_rung = rung * scheduler.reduction_factor ** (scheduler.brackets - 1)
    if name in _STOPPING and epochs <= rung:
        which = f"scheduler.grace_epochs ({rung})" if told else f"{rung}, the first epoch of a lower rate,"
        remedy = "" if told else ": set scheduler.grace_epochs, or scheduler.name to none"
        return f"must be above {which} for {name} to stop anything, got {epochs}{remedy}"
    if name == "hyperband" and epochs < last_rung:
        last = f"{last_rung}, where the last of scheduler.brackets ({scheduler.brackets}) begins to stop"
        return f"must be at least {last}, got {epochs}"
    if name == "pbt" and epochs <= scheduler.perturb_epochs:
        least = f"scheduler.perturb_epochs ({scheduler.perturb_epochs})"
        return f"must be above {least} for pbt to change anything, got {epochs}"
    return None


def _check_sampler(space: SearchSpace) -> Iterator[Problem]:
    sampler, path = space.search.sampler, ("search", "sampler")
    conditional = [name for name, p in space.drawn.items() if set(p.when) & set(space.parameters)]
    if sampler in ("gp", "qmc", "cmaes") and conditional:
        claim = f"must be one for conditions, such as tpe, since {conditional[0]} has one, got {sampler}"
        yield Problem(path, claim)
    if sampler != "cmaes":
        return
    # Optuna's CMA-ES leaves choices to chance for ever, and warns at every trial that it ignores constraints.
    choices = [name for name, p in space.drawn.items() if isinstance(p, CategoricalParameter)]
    if choices:
        yield Problem(path, f"must be one for choices, such as tpe, since {choices[0]} has some, got cmaes")
    if len(space.objectives) > 1:
        yield Problem(path, "must be one for several objectives, such as nsgaii, got cmaes")
    if space.constraints:
        yield Problem(path, "must be one that learns from constraints, such as tpe, got cmaes")


def _check_numbers(space: SearchSpace, *, all_are_read: bool) -> Iterator[Problem]:
    """What cmaes and grid have against the parameters that there are."""
    if space.search.sampler == "cmaes" and all_are_read and not space.drawn:
        yield Problem(("search", "sampler"), "must not be cmaes where no parameter is a number to be drawn")
    if space.search.sampler != "grid":
        return
    endless = [name for name, parameter in space.drawn.items() if parameter.grid() is None]
    for name in endless:
        yield Problem(("parameters", name), "needs a step, since the sampler is grid")
    if endless or not all_are_read:
        return
    most_points = math.prod(len(parameter.grid() or ()) for parameter in space.drawn.values())
    if most_points > MAX_GRID_POINTS:
        claim = f"must not be grid for {most_points:,} points, more than {MAX_GRID_POINTS:,}"
        yield Problem(("search", "sampler"), claim)
        return
    num_points = len(space.grid() or ())
    if space.search.num_trials > num_points:
        claim = f"must be at most {num_points}, the points of the grid, got {space.search.num_trials}"
        yield Problem(("search", "num_trials"), claim)


def _check_first_trials(space: SearchSpace) -> Iterator[Problem]:
    search = space.search
    if search.sampler == "grid" and search.enqueue:
        claim = "must be left out where the sampler is grid, which tries every point once"
        yield Problem(("search", "enqueue"), claim)
    elif len(search.enqueue) > search.num_trials:
        claim = f"must hold at most search.num_trials ({search.num_trials}) points, got {len(search.enqueue)}"
        yield Problem(("search", "enqueue"), claim)
    if search.sampler == "grid" and search.warm_start is not None:
        claim = "must be left out where the sampler is grid, which learns nothing from other trials"
        yield Problem(("search", "warm_start"), claim)


def _claim_against_first(space: SearchSpace, name: str, index: int) -> str | None:
    """What is wrong with one value of a point that is to be tried first."""
    point = space.search.enqueue[index]
    parameter = space.parameters.get(name)
    if parameter is None:
        return f"is not a parameter; {nearest(name, space.drawn)}"
    if not parameter.is_drawn:
        return f"is not drawn, since it is always {parameter.ends()[0]} times {space.ratio_of(name)}"
    if claim := parameter.claim_against(point[name]):
        return claim
    for other, allowed in parameter.when.items():
        value = point.get(other, space.fixed(other))
        if value not in allowed:
            got = "which the point leaves out" if value is None else f"got {shown(value)}"
            return f"exists only where {other} is {' or '.join(map(str, allowed))}, {got}"
    return None


def _check_seeds(space: SearchSpace) -> Iterator[Problem]:
    if "seed" not in space.parameters:
        return
    if space.search.repeats > 1:
        again = f"search.repeats ({space.search.repeats})"
    elif space.confirm is not None:
        again = "confirm"
    else:
        return
    yield Problem(("parameters", "seed"), f"must not be searched, since {again} trains with further seeds")


def _check_pbt(space: SearchSpace) -> Iterator[Problem]:
    if space.scheduler.name != "pbt":
        return
    if len(space.objectives) > 1:
        claim = f"must not be pbt for several objectives, got {len(space.objectives)} of them"
        yield Problem(("scheduler", "name"), claim)
    if not space.drawn:
        yield Problem(("scheduler", "name"), "must not be pbt where there are no parameters to change")
    for name, parameter in space.parameters.items():
        if not _changes_in_training(name, parameter):
            claim = (
                "cannot change in training, as pbt asks: only numbers of optimizer, margin and method can "
                "that leave all shapes and faces as they are, and weights of losses above 0"
            )
            yield Problem(("parameters", name), claim)
        elif set(parameter.when) & set(space.parameters):
            yield Problem(("parameters", name, "when"), "must be left out where the scheduler is pbt")
    if space.search.repeats > 1:
        claim = f"must be 1 where the scheduler is pbt, which changes points, got {space.search.repeats}"
        yield Problem(("search", "repeats"), claim)
    if space.confirm is not None:
        yield Problem(("confirm",), "must be left out where the scheduler is pbt, which changes points")


def _changes_in_training(name: str, parameter: AnyParameter) -> bool:
    if not parameter.is_number:
        return False
    match name.split("."):
        case ["optimizer" | "margin", _]:
            return True
        case ["losses", _, "weight"]:
            return all(isinstance(end, int | float) and end > 0 for end in parameter.ends())
        case ["method", setting, *_]:
            return setting in _OF_METHODS
    return False


def _check_resources_of_pbt(space: SearchSpace) -> Iterator[Problem]:
    if space.scheduler.name != "pbt":
        return
    if not space.resources.in_place:
        workers = space.resources.workers_per_trial
        claim = f"must be 1 where the scheduler is pbt, which changes trials in place, got {workers}"
        yield Problem(("resources", "workers_per_trial"), claim)
    if space.resources.max_concurrent != "auto":
        claim = "must be auto where the scheduler is pbt, whose trials are all begun at once, got "
        yield Problem(("resources", "max_concurrent"), f"{claim}{space.resources.max_concurrent}")


def _check_confirmation(space: SearchSpace) -> Iterator[Problem]:
    if space.confirm is not None and space.confirm.top > space.search.num_trials:
        claim = f"must be at most search.num_trials ({space.search.num_trials}), got {space.confirm.top}"
        yield Problem(("confirm", "top"), claim)


def _check_budget(space: SearchSpace) -> Iterator[Problem]:
    if space.budget.gpu_hours is not None and space.resources.gpus_per_worker == 0:
        claim = f"must be left out where resources.gpus_per_worker is 0, got {space.budget.gpu_hours}"
        yield Problem(("budget", "gpu_hours"), claim)


_CHECKS: dict[tuple[str, ...], Callable[[SearchSpace], Iterator[Problem]]] = {
    ("search", "objectives", "constraints"): _check_sampler,
    ("search",): _check_first_trials,
    ("search", "confirm"): _check_confirmation,
    ("search", "confirm", "parameters"): _check_seeds,
    ("search", "scheduler", "objectives"): _check_pbt,
    ("scheduler", "resources"): _check_resources_of_pbt,
    ("budget", "resources"): _check_budget,
}
"""Checks by the keys of the file that they compare."""
