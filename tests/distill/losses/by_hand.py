"""Geometry in plain floats, for oracles that share nothing with what they check."""

import math
from collections.abc import Sequence

from torch import Tensor

Row = Sequence[float]


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def minus(a: Row, b: Row) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def unit(a: Row) -> list[float]:
    return [x / math.hypot(*a) for x in a]


def unit_rows(rows: Tensor) -> list[list[float]]:
    return [unit(row) for row in rows.tolist()]


def huber(a: float, b: float) -> float:
    gap = abs(a - b)
    return gap**2 / 2 if gap < 1 else gap - 0.5


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
