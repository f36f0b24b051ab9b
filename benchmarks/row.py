"""What a benchmark finds: one row of the table, ours and the other way measured in turns."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Literal

Side = Literal["at least", "at most"]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A bound that a row's median is to keep.

    Attributes:
        side: Of the bound: `at least` where more is better.
        bound: Of the ratio; of ours itself where there is no other.
    """

    side: Side
    bound: float

    def is_met(self, value: float) -> bool:
        """Whether a value keeps the bound."""
        return value >= self.bound if self.side == "at least" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.side} {self.bound:g}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity, measured several times.

    Attributes:
        name: By which a later run finds it again.
        what: Is measured, for people.
        unit: Of ours and of the other: `trials an hour`, `s`.
        ours: The product's values, one a repetition.
        other: What they are compared with, as many, each measured next to its neighbour in ours. None: the
            goal bounds ours.
        against: What the other is.
        goal: Of the ratio ours / other, pair by pair, or of ours alone.
        note: What is to be known of the measurement.
    """

    name: str
    what: str
    unit: str
    ours: list[float]
    other: list[float] | None = None
    against: str = ""
    goal: Goal
    note: str = ""

    def __post_init__(self) -> None:
        if not self.ours or (self.other is not None and len(self.other) != len(self.ours)):
            raise ValueError(f"row {self.name} must have values, and as many of the other as of ours")

    @property
    def compared(self) -> list[float]:
        """What the goal is about, one a repetition."""
        if self.other is None:
            return self.ours
        return [one / other for one, other in zip(self.ours, self.other, strict=True)]

    @property
    def median(self) -> float:
        """Of what is compared."""
        return median(self.compared)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper one of what is compared: half of the repetitions lie between them."""
        return quartiles(self.compared)

    @property
    def meets_goal(self) -> bool:
        """Whether the median does."""
        return self.goal.is_met(self.median)


def quartiles(values: list[float]) -> tuple[float, float]:
    """The lower and the upper quartile; of a single value, that value twice."""
    if len(values) == 1:
        return values[0], values[0]
    lower, _, upper = quantiles(values, n=4, method="inclusive")
    return lower, upper


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def in_turns(
    ours: Callable[[], float], other: Callable[[], float], *, repetitions: int
) -> tuple[list[float], list[float]]:
    """Measures two ways in turns, so that what else the machine does meets both alike.

    Every second turn is taken in reverse: neither always follows the other.

    Returns:
        What each gave in each repetition.
    """
    measured: tuple[list[float], list[float]] = ([], [])
    for repetition in range(repetitions):
        order = [(0, ours), (1, other)]
        for place, measure in order[:: -1 if repetition % 2 else 1]:
            measured[place].append(measure())
    return measured
