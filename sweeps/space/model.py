"""What a search space is: what is searched, how, for how long, and what becomes of the best."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import optuna
from pydantic import Field, ValidationError, field_validator

from distill.config import TrialConfig
from distill.errors import InputError
from distill.settings import Settings, override
from sweeps.space.document import dump
from sweeps.space.parameters import AnyParameter
from sweeps.space.problems import dotted, problems_of
from sweeps.space.promotion import PromotionSettings
from sweeps.space.samplers import make_sampler
from sweeps.space.settings import (
    Bound,
    BudgetSettings,
    ConfirmSettings,
    Direction,
    KeepSettings,
    Objective,
    ResourcesSettings,
    SchedulerSettings,
    SearchSettings,
    number,
)

_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class SearchSpace(Settings):
    """A search: what is searched, how, and what becomes of the best.

    Made by `load_space`, which also checks its parts against each other and against `TrialConfig`.
    """

    name: str
    """Name of the study: letters, digits, dots, dashes and underscores, at most 64 of them."""
    description: str = ""
    """What the study is to find out."""
    objectives: tuple[Objective, ...] = Field(min_length=1)
    """What is improved. The first one also picks each trial's best epoch and decides who is stopped early."""
    selection: Literal["validation", "benchmark"] = "validation"
    """Which pairs trials may be ranked on. benchmark is for those who repeat a paper that did so: what it
    then says of the best trial is no result, and the leaderboard says so."""
    constraints: tuple[Bound, ...] = ()
    """Limits without which a trial is infeasible. Those on efficiency are tested before it is trained."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Settings of a `TrialConfig` that all trials share."""
    parameters: dict[str, AnyParameter] = Field(default_factory=dict)
    """What differs between trials, by dotted name in `TrialConfig`."""
    search: SearchSettings
    scheduler: SchedulerSettings = SchedulerSettings()
    budget: BudgetSettings = BudgetSettings()
    confirm: ConfirmSettings | None = None
    """Unset: the sweep ends with its search."""
    keep: KeepSettings = KeepSettings()
    resources: ResourcesSettings = ResourcesSettings()
    promotion: PromotionSettings | None = None
    """Unset: nothing is promoted."""

    @field_validator("name")
    @classmethod
    def _name_is_a_study_name(cls, name: str) -> str:
        if not _STUDY_NAME.fullmatch(name):
            raise ValueError(
                f"must be up to 64 letters, digits, '.', '_' and '-', no sign first, got {name!r}"
            )
        return name

    @property
    def directions(self) -> list[Direction]:
        """Optuna's directions, one an objective."""
        return [objective.direction for objective in self.objectives]

    @property
    def is_conditional(self) -> bool:
        """Whether some trials lack a parameter that others have."""
        return any(
            name in self.parameters for parameter in self.parameters.values() for name in parameter.when
        )

    def fixed(self, name: str) -> Any:
        """What `base` says under a dotted name; None when it says nothing."""
        value: Any = self.base
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def exists(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether a parameter's conditions hold, given the values of those declared before it."""
        return all(
            (values[other] if other in values else self.fixed(other)) in allowed
            for other, allowed in self.parameters[name].when.items()
        )

    def point(self, choose: Callable[[str, AnyParameter], Any]) -> dict[str, Any]:
        """A point of which each value is chosen in turn. Parameters whose conditions fail are absent."""
        values: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if self.exists(name, values):
                values[name] = choose(name, parameter)
        return values

    def sample(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """Asks Optuna for a point."""
        return self.point(lambda name, parameter: parameter.suggest(trial, name))

    def first_point(self) -> dict[str, Any]:
        """The point of all low ends and first choices: an example for what all trials share."""
        return self.point(lambda _, parameter: parameter.ends()[0])

    @property
    def max_epochs(self) -> int:
        """Epochs of the longest trial."""
        searched = self.parameters.get("training.epochs")
        ends = searched.ends() if searched else (self.config(self.first_point()).training.epochs,)
        return max(int(end) for end in ends)

    @property
    def trainings(self) -> int:
        """Trials at most: every point with every seed, and the finalists again."""
        confirming = self.confirm.top * self.confirm.seeds if self.confirm else 0
        return self.search.num_trials * self.search.repeats + confirming

    @property
    def first_rung(self) -> int:
        """Epochs that the scheduler gives every trial."""
        return self.scheduler.grace_epochs or 1

    def broken_constraints(self, metrics: Mapping[str, float]) -> list[str]:
        """Says which constraints these metrics break; those on other metrics are not broken yet."""
        return [
            f"{constraint}, got {number(metrics[constraint.metric])}"
            for constraint in self.constraints
            if constraint.metric in metrics and constraint.violation(metrics[constraint.metric]) > 0
        ]

    def grid(self) -> list[dict[str, Any]] | None:
        """Every point, each once; None when the sampler is another, or there is no end of points.

        A plain product of all values would hold the same trial many times where conditions switch
        parameters off, so absent parameters are absent here.
        """
        if self.search.sampler != "grid":
            return None
        points: list[dict[str, Any]] = [{}]
        for name, parameter in self.parameters.items():
            if (values := parameter.grid()) is None:
                return None
            points = [
                {**point, name: value} if value is not None else point
                for point in points
                for value in (values if self.exists(name, point) else (None,))
            ]
        return points

    def sampler(self, *, num_existing: int = 0) -> optuna.samplers.BaseSampler:
        """Makes Optuna's sampler.

        Args:
            num_existing: Trials that the study holds already. A sampler that is seeded alike when a study is
                resumed would propose its first random points again.
        """
        search = self.search
        return make_sampler(
            search.sampler,
            seed=search.seed,
            num_existing=num_existing,
            startup_trials=search.startup_trials,
            conditional=self.is_conditional,
            points=self.grid(),
        )

    def config(self, values: Mapping[str, Any], *, seed_offset: int = 0) -> TrialConfig:
        """The trial at a point of the space. Its best epoch is the first objective's.

        Args:
            seed_offset: Is added to the trial's seed: a point is trained again with another.

        Raises:
            InputError: If `TrialConfig` refuses it, with every reason.
        """
        settings = self.trial_settings(values)
        if seed_offset:
            settings["seed"] = settings.get("seed", 0) + seed_offset
        try:
            return trial_config(settings)
        except ValidationError as error:
            problems = problems_of(error, settings, TrialConfig)
            raise InputError("; ".join(f"{dotted(path)} {claim}" for path, claim in problems)) from error

    def trial_settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`config`, not yet validated."""
        first = self.objectives[0]
        selection = {
            "selection.metric": first.metric,
            "selection.direction": first.direction,
            "selection.pairs": self.selection,
        }
        return override(self.base, {**values, **selection})

    def to_yaml(self) -> str:
        """The space with every default written out, as `load_space` reads it."""
        data = self.model_dump(mode="json", exclude_none=True)
        for parameter in data["parameters"].values():
            if not parameter["when"]:
                del parameter["when"]
        return dump({**data, "base": self.base})


def trial_config(settings: dict[str, Any]) -> TrialConfig:
    """Validates a trial's settings as strictly as the file's: `"3"` is no number and 2.5 no count.

    Raises:
        ValidationError: If `TrialConfig` refuses them.
    """
    return TrialConfig.model_validate_json(json.dumps(settings), strict=True)
