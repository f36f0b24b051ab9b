"""Gates: what a student must keep to be promoted. Each kind is known by the key of its limit.

`{metric: benchmark/eer, at_most: 0.1}` is a `Bound`, as constraints have it. The other kinds compare with the
teacher, with the present champion, or look at every demographic group.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, NonNegativeFloat, PositiveFloat, Tag, model_validator

from distill.settings import Settings
from sweeps.space.problems import KeyPath, Problem, nearest
from sweeps.space.settings import Bound, number

_BENCHMARK = "benchmark/"
_COMPARED = (
    "benchmark/verification_accuracy",
    "benchmark/shared_threshold_accuracy",
    "benchmark/tar_at_far_",
)
"""Beginnings of the metrics that are resampled to compare two students."""


class TeacherGate(Settings):
    """A limit that follows the teacher's own value."""

    metric: str
    """One of the benchmark, which the teacher is measured on too."""
    share_of_teacher_at_least: PositiveFloat | None = None
    """0.95: the student must reach 95 % of what the teacher reaches."""
    share_of_teacher_at_most: PositiveFloat | None = None
    """1.2: the student may have 1.2 times what the teacher has, of an error rate say."""

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.share_of_teacher_at_least is None) == (self.share_of_teacher_at_most is None):
            raise ValueError("must have one of share_of_teacher_at_least and share_of_teacher_at_most")
        return self

    @property
    def bound(self) -> Bound:
        """The limit on the share itself."""
        return Bound(
            metric=self.metric,
            at_least=self.share_of_teacher_at_least,
            at_most=self.share_of_teacher_at_most,
        )

    def __str__(self) -> str:
        return f"{self.bound} of the teacher's"


class ChampionGate(Settings):
    """A limit that follows the student which has the alias now. It passes where there is none yet.

    Both students are measured on the same pairs and the same resampled people. What counts is the lower end
    of the difference's interval, candidate minus champion: one that could be luck does not pass.
    """

    metric: str
    """An accuracy or a TAR of the benchmark, of all pairs or of one group."""
    not_worse_than_champion_by: NonNegativeFloat | None = None
    """The interval must lie above minus this."""
    better_than_champion_by: NonNegativeFloat | None = None
    """The interval must lie above this."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Share of the resampled differences inside the interval; it leaves out equal shares on both sides."""

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.not_worse_than_champion_by is None) == (self.better_than_champion_by is None):
            raise ValueError("must have one of not_worse_than_champion_by and better_than_champion_by")
        return self

    @property
    def least_difference(self) -> float:
        """What the interval's lower end must reach."""
        if self.better_than_champion_by is not None:
            return self.better_than_champion_by
        assert self.not_worse_than_champion_by is not None
        return -self.not_worse_than_champion_by

    def __str__(self) -> str:
        how = "better" if self.better_than_champion_by is not None else "not worse"
        return f"{self.metric} {how} than the champion's by {number(abs(self.least_difference))}"


class GroupGate(Settings):
    """A limit that every demographic group of the benchmark must keep."""

    metric: Literal["benchmark/verification_accuracy", "benchmark/shared_threshold_accuracy"] = (
        "benchmark/shared_threshold_accuracy"
    )
    """shared_threshold_accuracy: at the threshold of all pairs, as a deployed system has it.
    verification_accuracy: each group at thresholds of its own."""
    no_group_below: PositiveFloat

    def __str__(self) -> str:
        return f"{self.metric} of no group below {number(self.no_group_below)}"


Gate = Bound | TeacherGate | ChampionGate | GroupGate

_KINDS: dict[str, str] = {
    "at_least": "Bound",
    "at_most": "Bound",
    "share_of_teacher_at_least": "TeacherGate",
    "share_of_teacher_at_most": "TeacherGate",
    "not_worse_than_champion_by": "ChampionGate",
    "better_than_champion_by": "ChampionGate",
    "no_group_below": "GroupGate",
}
"""What each limit makes of a gate."""


def _kind(gate: Any) -> str | None:
    if not isinstance(gate, dict):
        return type(gate).__name__
    kinds = [kind for limit, kind in _KINDS.items() if limit in gate]
    return kinds[0] if len(kinds) == 1 else None


AnyGate = Annotated[
    Annotated[Bound, Tag("Bound")]
    | Annotated[TeacherGate, Tag("TeacherGate")]
    | Annotated[ChampionGate, Tag("ChampionGate")]
    | Annotated[GroupGate, Tag("GroupGate")],
    Discriminator(
        _kind,
        custom_error_type="gate",
        custom_error_message=f"must have one limit of {', '.join(_KINDS)}",
    ),
]
"""A gate as a file has it."""


def gate_problems(path: KeyPath, gate: Gate, measured: list[str]) -> Iterator[Problem]:
    """What is wrong with a gate's metric.

    Args:
        measured: The metrics that are known of a candidate; empty where that could not be found out.
    """
    if not measured:
        return
    compared = [metric for metric in measured if metric.startswith(_COMPARED) and not metric.endswith("_std")]
    match gate:
        case GroupGate():
            if not any(metric.startswith(f"{gate.metric}_") for metric in compared):
                yield Problem((*path, "no_group_below"), "needs a benchmark that has demographic groups")
            return
        case TeacherGate():
            allowed, what = [m for m in measured if m.startswith(_BENCHMARK)], "a metric of the benchmark"
        case ChampionGate():
            allowed, what = compared, "an accuracy or a TAR of the benchmark"
        case Bound():
            allowed, what = measured, "a metric that is reported"
    if gate.metric not in allowed:
        claim = f"must be {what}, got {gate.metric!r}; {nearest(gate.metric, allowed)}"
        yield Problem((*path, "metric"), claim)
