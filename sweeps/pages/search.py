"""How the search went: its best values over time, and every trial's learning curve."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sweeps.leaderboard import TrialRow
from sweeps.pages.content import Content, MissingError, Picture
from sweeps.pages.knowledge import Knowledge
from sweeps.pages.quantities import counted, quantity
from sweeps.pages.spread import spread_bars
from sweeps.pages.style import (
    CHAMPION,
    GREY,
    LOOKS,
    TEACHER_LINE,
    VERMILION,
    draw,
    handles_of,
    legend,
    name_y,
    whole_numbers,
)
from sweeps.space import Objective

STRIP = 0.035
"""How high above the axis trials without a value are marked, as a share of the axes."""


def history(known: Knowledge) -> Content:
    """Every point's objectives in the order they were drawn, and the best so far."""
    if not known.rows:
        raise MissingError("No trial has begun.")
    if not any(row.values for row in known.rows):
        raise MissingError(f"No trial has reported a value yet: {known.states()}.")
    objectives = known.space.objectives
    return Content(
        pictures=[
            _history_picture(known, index, objective, name=f"history_{index + 1}" if index else "history")
            for index, objective in enumerate(objectives)
        ]
    )


def _history_picture(known: Knowledge, index: int, objective: Objective, *, name: str) -> Picture:
    shown = quantity(objective.metric)
    rows = sorted(known.points, key=lambda row: row.number)
    maximize = objective.direction == "maximize"

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        best: list[tuple[int, float]] = []
        for row in rows:
            if row.state == "complete" and row.values:
                value = row.values[index] * shown.factor
                better = not best or (value > best[-1][1] if maximize else value < best[-1][1])
                best.append((row.number, value if better else best[-1][1]))
        if best:
            last = max(rows[-1].number, best[-1][0] + 0.5)
            numbers, values = zip(*best, (last, best[-1][1]), strict=True)
            axes.step(numbers, values, where="post", color=VERMILION, label="best so far", zorder=2)
        for state, look in LOOKS.items():
            valued = [row for row in rows if row.state == state and row.values]
            if valued:
                y = [row.values[index] * shown.factor for row in valued if row.values]
                axes.scatter([row.number for row in valued], y, label=state, zorder=4, **look.points())
                places = {row.number: (row.number, at) for row, at in zip(valued, y, strict=True)}
                spread_bars(axes, known, places, objective.metric)
            if silent := [row.number for row in rows if row.state == state and not row.values]:
                axes.scatter(
                    silent,
                    [STRIP] * len(silent),
                    transform=axes.get_xaxis_transform(),
                    label=f"{state}, no value",
                    zorder=4,
                    **look.points(),
                )
        if objective.metric in known.teacher:
            axes.axhline(known.teacher[objective.metric] * shown.factor, label="teacher", **TEACHER_LINE)
        axes.set_xlim(rows[0].number - 0.5, rows[-1].number + 0.5)
        axes.margins(y=0.12)
        drew = "trial that drew the point" if known.is_repeated else "trial, in the order drawn"
        axes.set_xlabel(drew)
        name_y(axes, shown.label)
        whole_numbers(axes.xaxis)
        legend(figure, handles_of(axes))

    reached = [row.values[index] for row in rows if row.values and row.state == "complete"]
    peak = (max if maximize else min)(reached) if reached else None
    told = f"; the best completed one reached {shown.text(peak)}" if peak is not None else ""
    aim = "Higher" if maximize else "Lower"
    pruned = (
        " A pruned trial is shown at its best epoch before it was stopped, and counts for nothing in "
        "the best so far."
        if known.count("pruned")
        else ""
    )
    silent = " Trials without a value are marked at the foot." if any(not row.values for row in rows) else ""
    silent += known.about_points
    return draw(
        name,
        plot,
        alt=f"{shown.name} of {counted(len(rows), known.points_are)} by their number{told}.",
        caption=f"{aim} is better.{pruned}{silent}",
    )


def curves(known: Knowledge) -> Content:
    """The first objective by epoch in every trial, with the epochs at which trials are stopped."""
    by_row = [(row, known.curve(row)) for row in known.rows]
    by_row = [(row, curve) for row, curve in by_row if curve]
    if not by_row:
        raise MissingError("No trial has finished an epoch, or MLflow has no record of it.")
    shown = quantity(known.metric)
    rungs = _rungs(known)
    best = known.best

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        for row, curve in reversed(by_row):  # the best lie on top
            _draw_curve(axes, row, curve, factor=shown.factor, is_champion=row is best)
        for rung in rungs:
            axes.axvline(rung, color=GREY, linestyle=(0, (1, 2)), linewidth=1.2, label="rung")
        if known.metric in known.teacher:
            axes.axhline(known.teacher[known.metric] * shown.factor, label="teacher", **TEACHER_LINE)
        last = max(epoch for _, curve in by_row for epoch, _ in curve)
        axes.set_xlim(0.75 if last > 1 else 0.5, last + (0.25 if last > 1 else 0.5))
        axes.margins(y=0.08)
        axes.set_xlabel("epoch")
        name_y(axes, shown.label)
        whole_numbers(axes.xaxis)
        legend(figure, handles_of(axes)[::-1])

    pruned = known.count("pruned")
    told = f" {counted(pruned, 'trial')} {'was' if pruned == 1 else 'were'} stopped early." if pruned else ""
    return Content(
        pictures=[
            draw(
                "learning_curves",
                plot,
                height_inches=3.8,
                alt=f"{shown.name} by epoch for {counted(len(by_row), 'trial')}.{told}",
                caption=f"Each line is a trial.{told} The star is the champion's best epoch, whose student "
                f"it hands over.{' At a rung, trials that lag behind are stopped.' if rungs else ''}",
            )
        ]
    )


def _draw_curve(
    axes: Axes, row: TrialRow, curve: list[tuple[int, float]], *, factor: float, is_champion: bool
) -> None:
    look = LOOKS[row.state]
    epochs = [epoch for epoch, _ in curve]
    values = [value * factor for _, value in curve]
    if is_champion:
        axes.plot(
            epochs, values, color=VERMILION, linewidth=2.4, label=f"champion, trial {row.number}", zorder=5
        )
        if row.values:
            place = min(range(len(curve)), key=lambda index: abs(curve[index][1] - (row.values or [0])[0]))
            axes.scatter(epochs[place], values[place], **CHAMPION)
        return
    axes.plot(
        epochs, values, color=look.colour, linestyle=look.line, linewidth=1.3, alpha=0.75, label=row.state
    )
    axes.scatter(epochs[-1], values[-1], zorder=4, **look.points(24))


def _rungs(known: Knowledge) -> list[int]:
    """Epochs at which the scheduler compares trials; the first bracket's where there are several."""
    scheduler, last = known.space.scheduler, known.space.max_epochs
    if scheduler.name not in ("asha", "hyperband"):
        return []
    rungs, rung = [], known.space.first_rung
    while rung < last:
        rungs.append(rung)
        rung *= scheduler.reduction_factor
    return rungs
