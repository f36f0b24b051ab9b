"""What a search space is: what is searched, how, for how long, and what becomes of the best."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, Literal

import optuna
from pydantic import Field, ValidationError

from distill.config import TrialConfig
from distill.errors import InputError
from distill.evaluation import LATENCY
from distill.settings import Settings, override
from sweeps.space.document import dump
from sweeps.space.parameters import AnyParameter, IntParameter, RangeParameter, is_number
from sweeps.space.problems import dotted, problems_of
from sweeps.space.promotion import PromotionSettings
from sweeps.space.samplers import make_sampler
from sweeps.space.schema import scalars_at
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
    StudyName,
    number,
)


class SearchSpace(Settings):
    """A search: what is searched, how, and what becomes of the best.

    Made by `load_space`, which also checks its parts against each other and against `TrialConfig`.
    """

    name: StudyName
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

    @property
    def directions(self) -> list[Direction]:
        """Optuna's directions, one an objective."""
        return [objective.direction for objective in self.objectives]

    @property
    def is_conditional(self) -> bool:
        """Whether some trials lack a parameter that others have."""
        return any(name in self.parameters for parameter in self.drawn.values() for name in parameter.when)

    @property
    def drawn(self) -> dict[str, AnyParameter]:
        """The parameters that Optuna is asked for: all but ratios that may only be one."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.is_drawn}

    @property
    def trainings(self) -> int:
        """Trainings in the whole sweep, at most."""
        confirming = self.confirm.top * self.confirm.seeds if self.confirm else 0
        return self.search.num_trials * self.search.repeats + confirming

    @property
    def needs_latency(self) -> bool:
        """Whether a student's latency is to be measured before it is trained."""
        return any(target.metric == LATENCY for target in (*self.objectives, *self.constraints))

    def fixed(self, name: str) -> Any:
        """What `base` says under a dotted name; None when it says nothing."""
        value: Any = self.base
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def ratio_of(self, name: str) -> str | None:
        """The setting that a parameter is a ratio of; None where it is none."""
        parameter = self.parameters.get(name)
        return parameter.ratio_of if isinstance(parameter, RangeParameter) else None

    def exists(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether a parameter's conditions hold, given the values of those declared before it."""
        return all(
            (values[other] if other in values else self.fixed(other)) in allowed
            for other, allowed in self.parameters[name].when.items()
        )

    def point(self, choose: Callable[[str, AnyParameter], Any]) -> dict[str, Any]:
        """A point of which each value is chosen in turn. Parameters whose conditions fail are absent."""
        values: dict[str, Any] = {}
        for name, parameter in self.drawn.items():
            if self.exists(name, values):
                values[name] = choose(name, parameter)
        return values

    def sample(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """Asks Optuna for a point."""
        return self.point(lambda name, parameter: parameter.suggest(trial, name))

    def first_point(self) -> dict[str, Any]:
        """The point of all low ends and first choices: an example for what all trials share."""
        return self.point(lambda _, parameter: parameter.ends()[0])

    def ends_of(self, name: str, *, given: str = "") -> tuple[Any, ...]:
        """Both ends of what trials may have for a setting, or each of its choices; of a ratio, the products.

        Args:
            name: A parameter, a setting that base fixes, or one of `schedule` and `training`.
            given: A parameter, the conditions on which are known to hold.
        """
        parameter = self.parameters.get(name)
        if parameter is None:
            return (self._fixed_or_default(name),)
        ends: tuple[Any, ...] = parameter.ends()
        if (ratio_of := self.ratio_of(name)) is not None:
            pairs = product(ends, self.ends_of(ratio_of))
            ends = tuple(self._product(name, ratio, other, {}) for ratio, other in pairs)
        may_lack = (set(parameter.when) & set(self.parameters)) - {given}
        return (*ends, self._fixed_or_default(name)) if may_lack else ends

    @property
    def max_epochs(self) -> int:
        """Epochs of the longest trial."""
        return max(int(end) for end in self.ends_of("training.epochs") if is_number(end))

    @property
    def first_rung(self) -> int:
        """Epochs that the scheduler gives every trial.

        Unless the space says, none is stopped before its learning rate dropped for the first time: until
        then a trial of a high rate looks worse than it is.
        """
        if self.scheduler.grace_epochs is not None:
            return self.scheduler.grace_epochs
        last = self.max_epochs
        return (
            max((int(drop) for drop in self._first_drops() if is_number(drop) and drop < last), default=0) + 1
        )

    def _first_drops(self) -> Iterator[Any]:
        """After how many epochs the learning rate may drop for the first time, where it falls in steps."""
        names, setting = self.ends_of("schedule.name"), "schedule.step_epochs"
        if "step" in names:
            ends = self.ends_of(setting, given="schedule.name")
            match self.parameters.get(setting):
                case IntParameter(ratio_of=None) as steps:
                    yield from (*steps.grid(), *ends)
                case RangeParameter():
                    yield from range(round(min(ends)), round(max(ends)) + 1)
                case _:
                    yield from ends
        if "milestones" in names:
            yield from sorted(self._fixed_or_default("schedule.milestones"))[:1]

    def _fixed_or_default(self, name: str) -> Any:
        if (fixed := self.fixed(name)) is not None:
            return fixed
        group, _, setting = name.partition(".")
        return getattr(TrialConfig.model_fields[group].default, setting)

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
        for name, parameter in self.drawn.items():
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
            values: What was drawn, by dotted name.
            seed_offset: Added to the trial's seed, to train a point again.

        Raises:
            InputError: If `TrialConfig` refuses it, with every reason.
        """
        settings = self.trial_settings(values)
        if seed_offset:
            settings["seed"] = settings.get("seed", TrialConfig.model_fields["seed"].default) + seed_offset
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
        return override(self.base, {**self.settings_of(values), **selection})

    def settings_of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a trial that differ from other trials', by dotted name, as the trial gets them.

        Args:
            values: What was drawn. Of a ratio it holds how many times another setting this one is, or nothing
                where that may only be one number.
        """
        settings: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if not (name in values if parameter.is_drawn else self.exists(name, values)):
                continue
            value: Any = values[name] if parameter.is_drawn else parameter.ends()[0]
            if (ratio_of := self.ratio_of(name)) is not None:
                other = settings.get(ratio_of, self.fixed(ratio_of))
                if other is None:
                    continue
                value = self._product(name, value, other, settings)
            settings[name] = value
        return settings | {name: value for name, value in values.items() if name not in self.parameters}

    def _product(self, name: str, ratio: float, other: float, settings: Mapping[str, Any]) -> float:
        """`ratio` times `other` as the setting `name`: rounded where it is a whole number.

        Args:
            settings: What decides which kinds of student and method there are, by dotted name.
        """
        data = override(self.base, {**settings, name: None})
        kinds = scalars_at(TrialConfig, data, name.split("."))
        return round(ratio * other) if int in kinds and float not in kinds else ratio * other

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
