"""What accuracy costs: every trial between two metrics, and the ones that no other surpasses in both."""

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sweeps.pages.content import Content, MissingError, Picture
from sweeps.pages.knowledge import ACCURACY, Knowledge
from sweeps.pages.quantities import counted, listed, quantity
from sweeps.pages.spread import spread_bars
from sweeps.pages.style import BLUE, CHAMPION, INK, LOOKS, draw, handles_of, legend, name_y, scale_log

SIZES = ("efficiency/parameters", "efficiency/weight_bytes")
LOG_FROM = 6.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""


@dataclass(frozen=True)
class _Axis:
    metric: str
    maximize: bool


def fronts(known: Knowledge) -> Content:
    """Accuracy against size, and the other objectives against the first."""
    planes = [
        (x, y)
        for x, y in _planes(known)
        if any(x.metric in row.metrics and y.metric in row.metrics for row in known.points)
    ]
    if not planes:
        raise MissingError("No trial has reported an accuracy and a size yet.")
    pictures = [_picture(known, x, y, name=f"pareto_{i}") for i, (x, y) in enumerate(planes, start=1)]
    text = []
    if len(known.space.objectives) > 1 and known.complete:
        complete = [row for row in known.points if row.state == "complete" and row.values]
        front = front_of({row.number: tuple(_losses(known, row.values or [])) for row in complete})
        names = listed([quantity(objective.metric).name for objective in known.space.objectives])
        text.append(
            f"{counted(len(front), known.points_are)} of {len(complete)} completed cannot be surpassed in "
            f"all of {names} at once: {listed([str(number) for number in sorted(front)])}. The champion is "
            "the one that the leaderboard lists first."
        )
    return Content(text=text, pictures=pictures)


def front_of(losses: Mapping[int, tuple[float, ...]]) -> set[int]:
    """Those that no other is at least as good as in everything, and better in something.

    Args:
        losses: Of each, by its number; less is better.
    """
    return {
        number
        for number, own in losses.items()
        if not any(
            other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in losses.values()
        )
    }


def _planes(known: Knowledge) -> list[tuple[_Axis, _Axis]]:
    """What is drawn against what: x and y."""
    objectives = [_Axis(o.metric, o.direction == "maximize") for o in known.space.objectives]
    first = objectives[0]
    accuracy = first if ACCURACY in first.metric else _Axis(f"validation/{ACCURACY}", True)
    planes = [(_Axis(size, False), accuracy) for size in SIZES]
    planes += [(other, first) for other in objectives[1:]]
    distinct = {(x.metric, y.metric): (x, y) for x, y in planes if x.metric != y.metric}
    return list(distinct.values())


def _losses(known: Knowledge, values: list[float]) -> list[float]:
    directions = [objective.direction for objective in known.space.objectives]
    return [-v if d == "maximize" else v for v, d in zip(values, directions, strict=True)]


def _picture(known: Knowledge, x: _Axis, y: _Axis, *, name: str) -> Picture:
    shown_x, shown_y = quantity(x.metric), quantity(y.metric)
    points = {
        row.number: (row.metrics[x.metric] * shown_x.factor, row.metrics[y.metric] * shown_y.factor)
        for row in known.points
        if x.metric in row.metrics and y.metric in row.metrics
    }
    state = {row.number: row.state for row in known.points}
    losses = {
        number: (-at_x if x.maximize else at_x, -at_y if y.maximize else at_y)
        for number, (at_x, at_y) in points.items()
        if state[number] == "complete"
    }
    front = sorted((points[number] for number in front_of(losses)), key=lambda point: point[0])
    best = known.best_point
    teacher = (
        (known.teacher[x.metric] * shown_x.factor, known.teacher[y.metric] * shown_y.factor)
        if x.metric in known.teacher and y.metric in known.teacher
        else None
    )

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        for each, look in LOOKS.items():
            of_state = [point for number, point in points.items() if state[number] == each]
            if of_state:
                axes.scatter(*zip(*of_state, strict=True), label=each, zorder=3, **look.points())
        spread_bars(axes, known, points, y.metric)
        if best is not None and best.number in points:
            axes.scatter(*points[best.number], label="champion", **CHAMPION)
        if teacher is not None:
            axes.scatter(*teacher, marker="D", s=52, color=INK, zorder=5, label="teacher")
        seen = [at_x for at_x, _ in [*points.values(), *([teacher] if teacher else [])]]
        axes.margins(0.08, 0.12)
        if min(seen) > 0 and max(seen) / min(seen) > LOG_FROM:
            scale_log(axes, "x", min(seen), max(seen))
            pad = (max(seen) / min(seen)) ** 0.06
            axes.set_xlim(min(seen) / pad, max(seen) * pad)
        else:
            if max(seen) == min(seen):
                axes.set_xlim(0.8 * min(seen), 1.2 * max(seen) or 1)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        if front:
            # What can be had between two of the front, and beyond its end, is the nearest one's.
            axes.set_xlim(axes.get_xlim())
            end = axes.get_xlim()[0 if x.maximize else 1]
            stairs = [(end, front[0][1]), *front] if x.maximize else [*front, (end, front[-1][1])]
            where = "pre" if x.maximize else "post"
            axes.step(
                *zip(*stairs, strict=True), where=where, color=BLUE, linewidth=1.4, label="front", zorder=2
            )
        axes.set_xlabel(shown_x.label)
        name_y(axes, shown_y.label)
        legend(figure, handles_of(axes))

    beside = " The teacher is the diamond." if teacher is not None else ""
    better_x, better_y = ("more" if axis.maximize else "less" for axis in (x, y))
    return draw(
        name,
        plot,
        alt=f"{shown_y.name} against {shown_x.name} of {counted(len(points), known.points_are)}, "
        f"{len(front)} of them on the front.",
        caption=f"{shown_y.name[:1].upper()}{shown_y.name[1:]}, of which {better_y} is better, against "
        f"{shown_x.name}, of which {better_x} is. On the front lie the completed {known.points_are}s that no "
        f"other surpasses in both.{beside}{known.about_points}",
    )
