"""The parts of a search space beside its parameters: how points are chosen, judged, run and kept."""

import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from distill.settings import Settings
from sweeps.space.parameters import Scalar

Direction = Literal["maximize", "minimize"]
SamplerName = Literal["tpe", "random", "grid", "qmc", "gp", "nsgaii", "nsgaiii", "cmaes"]
_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _name_is_a_study_name(name: str) -> str:
    if not _STUDY_NAME.fullmatch(name):
        raise ValueError(f"must be up to 64 letters, digits, '.', '_' and '-', no sign first, got {name!r}")
    return name


StudyName = Annotated[str, AfterValidator(_name_is_a_study_name)]
"""Letters, digits, dots, dashes and underscores, at most 64 of them."""


class Objective(Settings):
    """A metric that the search improves."""

    metric: str
    direction: Direction


class Bound(Settings):
    """A limit that a metric must keep."""

    metric: str
    at_most: float | None = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("must have one of at_most and at_least")
        return self

    def violation(self, value: float) -> float:
        """How far `value` is on the wrong side of the limit; at most 0 when it keeps it, as Optuna counts."""
        if self.at_most is not None:
            return value - self.at_most
        assert self.at_least is not None
        return self.at_least - value

    def __str__(self) -> str:
        side, limit = ("at most", self.at_most) if self.at_most is not None else ("at least", self.at_least)
        assert limit is not None
        return f"{self.metric} {side} {number(limit)}"


class SearchSettings(Settings):
    """How points of the space are chosen."""

    sampler: SamplerName = "tpe"
    """tpe learns which regions are good, under conditions too; gp does for a few numbers without conditions;
    nsgaii and nsgaiii breed for several objectives; cmaes follows the lie of the land over numbers alone, for
    one objective without constraints; qmc and random spread evenly; grid tries every point."""
    num_trials: PositiveInt
    """Trials in the sweep, however they end."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the sampler. The seed of training is the trial's own `seed`."""
    startup_trials: PositiveInt = 10
    """Random trials before tpe, gp or cmaes begin to learn; a generation of nsgaii and nsgaiii."""
    repeats: PositiveInt = 1
    """Trainings of a point that completes, each with a seed of its own. The leaderboard ranks points by the
    mean of theirs."""
    enqueue: tuple[dict[str, Scalar], ...] = ()
    """Points that are tried first: parameters by dotted name. Those that are left out are drawn."""
    warm_start: StudyName | None = None
    """A study of the same home, whose trials the sampler learns from where the spaces agree."""


class SchedulerSettings(Settings):
    """Which trials are stopped before their last epoch."""

    name: Literal["asha", "hyperband", "median", "pbt", "none"] = "asha"
    """asha: at each rung only the best trials go on; Li et al., MLSys 2020,
    https://arxiv.org/abs/1810.05934. hyperband: several brackets of asha, with first rungs of their own;
    Li et al., JMLR 2018, https://arxiv.org/abs/1603.06560. median: those below the median of the others are
    stopped; Golovin et al., KDD 2017. pbt: the worst go on from the best with changed settings; Jaderberg et
    al., 2017, https://arxiv.org/abs/1711.09846."""
    grace_epochs: PositiveInt | None = None
    """Epochs that every trial is given: the first rung. Unset: the first epoch after the first drop of the
    learning rate, before which trials cannot be compared; 1 where it falls from the start or never."""
    reduction_factor: int = Field(default=3, ge=2)
    """One in so many trials passes a rung of asha or hyperband; rungs are this factor of epochs apart."""
    brackets: int = Field(default=3, ge=2)
    """Brackets of hyperband."""
    perturb_epochs: PositiveInt = 1
    """Epochs between two changes of pbt."""


class BudgetSettings(Settings):
    """What ends a sweep before its trials are used up, each counted over all drivers of the study."""

    hours: PositiveFloat | None = None
    """Hours that the sweep is driven."""
    gpu_hours: PositiveFloat | None = None
    """Hours of GPUs that its trials hold."""
    target: float | None = None
    """A value of the first objective that is good enough."""


class ConfirmSettings(Settings):
    """The best points are trained again, since the winner of a sweep owes part of its place to luck."""

    top: int = Field(default=3, ge=1)
    """How many points."""
    seeds: int = Field(default=3, ge=1)
    """How many further seeds each is trained with. The points are then ranked by the mean of these."""


class KeepSettings(Settings):
    """What stays on disk."""

    students: PositiveInt = 10
    """Trials whose best student is kept: the best of the sweep. The others keep their numbers alone."""


class ResourcesSettings(Settings):
    """What a trial occupies."""

    workers_per_trial: PositiveInt = 1
    """1: the trial runs in place. More: they train one student together, each on its part of every batch."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPU cores of each worker."""
    gpus_per_worker: NonNegativeFloat = 0.0
    """GPUs of each worker. A fraction lets several trials share one."""
    memory_gb_per_worker: PositiveFloat | None = None
    """GiB of memory of each worker, which Ray sets aside. Unset: not counted."""
    custom_per_worker: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Resources of the cluster's own naming that each worker takes, such as `{fast_disk: 1}`."""
    timeout_minutes: PositiveFloat | None = None
    """A trial that runs longer fails. Unset: it may run for ever."""
    retries: NonNegativeInt = 2
    """How often a trial is begun again, from its last epoch, after its worker or node was lost or memory ran
    out. One that diverges, or whose settings are wrong, is not."""
    max_concurrent: PositiveInt | Literal["auto"] = "auto"
    """Trials that run at once. auto: as many as the cluster holds, also when nodes join or leave."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _only_whole_gpus_are_several(cls, gpus: float, info: ValidationInfo) -> float:
        if gpus % 1 and gpus > 1:
            raise ValueError(f"must be whole above 1, got {gpus}")
        if gpus % 1 and info.data.get("workers_per_trial", 1) > 1:
            raise ValueError(
                f"must be whole when a trial has several workers, which cannot share a GPU, got {gpus}"
            )
        return gpus

    @property
    def in_place(self) -> bool:
        """Whether a trial trains in the process that holds it, without workers of its own."""
        return self.workers_per_trial == 1

    @property
    def num_threads(self) -> int:
        """CPU threads of each worker: its whole cores, and one where it has less."""
        return max(1, int(self.cpus_per_worker))

    def per_worker(self) -> dict[str, float]:
        """What each worker takes of Ray's resources."""
        counted = {"GPU": self.gpus_per_worker, "memory": (self.memory_gb_per_worker or 0.0) * 2**30}
        return {
            "CPU": self.cpus_per_worker,
            **{name: amount for name, amount in counted.items() if amount},
            **self.custom_per_worker,
        }


def number(value: float) -> str:
    """A metric's value for people: whole numbers whole, others to six digits."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.6g}"
