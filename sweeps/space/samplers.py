"""How points are chosen: Optuna's samplers, seeded and set up for the space at hand."""

import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial


def make_sampler(
    name: str,
    *,
    seed: int,
    num_existing: int,
    startup_trials: int,
    conditional: bool,
    points: Sequence[Mapping[str, Any]] | None,
) -> BaseSampler:
    """Makes the sampler that a search space names.

    Args:
        num_existing: Trials that the study holds already; shifts the seed, but not the grid's order.
        startup_trials: Random trials before tpe, gp or cmaes learn; the size of a generation of nsgaii and
            nsgaiii.
        conditional: Whether some trials lack a parameter that others have.
        points: What grid tries.

    Raises:
        ValueError: If the name is unknown, or grid has no points.
    """
    rng_seed = (seed + num_existing) % 2**31
    with warnings.catch_warnings():
        # group and QMCSampler: their interfaces may change with Optuna, whose version is pinned.
        warnings.simplefilter("ignore", ExperimentalWarning)
        match name:
            case "tpe":
                return TPESampler(
                    seed=rng_seed, n_startup_trials=startup_trials, multivariate=True, group=conditional
                )
            case "random":
                return RandomSampler(seed=rng_seed)
            case "grid" if points:
                return GridSampler(points, seed=seed)
            case "qmc":
                independent = RandomSampler(seed=rng_seed)
                return QMCSampler(
                    scramble=True,
                    seed=seed,
                    independent_sampler=independent,
                    warn_independent_sampling=False,
                    warn_asynchronous_seeding=False,
                )
            case "gp":
                return GPSampler(seed=rng_seed, n_startup_trials=startup_trials)
            case "nsgaii":
                return NSGAIISampler(seed=rng_seed, population_size=startup_trials)
            case "nsgaiii":
                return NSGAIIISampler(seed=rng_seed, population_size=startup_trials)
            case "cmaes":
                independent = RandomSampler(seed=rng_seed)
                return CmaEsSampler(
                    seed=rng_seed,
                    n_startup_trials=startup_trials,
                    independent_sampler=independent,
                    warn_independent_sampling=False,
                )
    raise ValueError(f"no sampler {name!r} for {len(points or ())} points")


class GridSampler(BaseSampler):
    """Tries given points in a random order, one a trial. Unlike Optuna's own, it knows conditions.

    How many trials came before decides a trial's point, so parallel and resumed studies try none twice.
    Enqueued trials do not count: they are repetitions, whose points were given to them.
    """

    def __init__(self, points: Sequence[Mapping[str, Any]], *, seed: int):
        self._points = random.Random(seed).sample(points, len(points))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        before = [other for other in study.get_trials(deepcopy=False) if other.number < trial.number]
        num_drawn = sum("fixed_params" not in other.system_attrs for other in before)
        return self._points[num_drawn % len(self._points)][param_name]
