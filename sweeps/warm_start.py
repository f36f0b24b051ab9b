"""What a study learns from another before its own first trial."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial

from distill.errors import InputError
from sweeps.home import Home
from sweeps.space import SearchSpace
from sweeps.study import WARM_START, load_study, own_trials, read_space


def require_alike(space: SearchSpace, *, home: Home) -> None:
    """Looks whether a space can learn from the study that it names, if it names one.

    Raises:
        InputError: If there is no such study in `home`, or it had other objectives.
    """
    if (name := space.search.warm_start) is None:
        return
    other = read_space(home, name)
    if other.objectives != space.objectives:
        raise InputError(
            f"search.warm_start must name a study with the objectives {_listed(space)}, got {name!r} with "
            f"{_listed(other)}"
        )


def warm_start(study: optuna.Study, space: SearchSpace, *, home: Home) -> tuple[int, int]:
    """Gives a new study the completed trials of the one that its space names, where they are points of it.

    They teach the sampler and are no trials of the study: no leaderboard and no budget counts them.

    Returns:
        How many fitted, and of how many.
    """
    name = space.search.warm_start
    assert name is not None
    other = read_space(home, name)
    completed = [t for t in own_trials(load_study(home, name)) if t.state == TrialState.COMPLETE]
    num_fitting = 0
    for trial in completed:
        if (point := _as_point(space, other, trial.params)) is None:
            continue
        num_fitting += 1
        study.add_trial(
            create_trial(
                values=trial.values,
                params=point,
                distributions={key: _distribution(space, key, point) for key in point},
                user_attrs={WARM_START: f"{name}/{trial.number}"},
                constraints=trial.constraints or None,
            )
        )
    return num_fitting, len(completed)


def _as_point(space: SearchSpace, other: SearchSpace, drawn: Mapping[str, Any]) -> dict[str, Any] | None:
    """The point of `space` that trains what another space's point trained; None where it has none."""
    values = {name: drawn.get(name, other.fixed(name)) for name in space.drawn}
    point = space.point(lambda name, parameter: values[name])
    if any(space.parameters[name].claim_against(value) is not None for name, value in point.items()):
        return None
    ours, theirs = space.settings_of(point), other.settings_of(drawn)
    alike = all(
        ours.get(name, space.fixed(name)) == theirs.get(name, other.fixed(name))
        for name in ours.keys() | theirs
    )
    return point if alike else None


def _distribution(space: SearchSpace, name: str, point: Mapping[str, Any]) -> BaseDistribution:
    """What Optuna draws a parameter from."""
    asked = optuna.trial.FixedTrial(dict(point))
    space.parameters[name].suggest(asked, name)
    return asked.distributions[name]


def _listed(space: SearchSpace) -> str:
    return ", ".join(f"{objective.metric} ({objective.direction})" for objective in space.objectives)
