"""What the parameters did: their importances, slices through the space, and whole points side by side."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sweeps.columns import setting_text, short_names
from sweeps.leaderboard import TrialRow
from sweeps.pages.content import Content, MissingError
from sweeps.pages.knowledge import Knowledge
from sweeps.pages.quantities import counted, listed, quantity
from sweeps.pages.spread import spread_bars
from sweeps.pages.style import (
    BLUE,
    CHAMPION,
    GREY,
    LOOKS,
    PALE,
    VERMILION,
    cut,
    draw,
    handles_of,
    legend,
    name_y,
    scale_log,
    whole_numbers,
)
from sweeps.space import FloatParameter, IntParameter

MIN_TRIALS = 4
"""Completed trials below which an importance is luck."""
UNSET = "not set"
_BY_MEANS = " A point that was trained with several seeds counts once, by the mean."


def importances(known: Knowledge) -> Content:
    """Which parameters decide whether a trial is among the best, by PED-ANOVA.

    Watanabe et al., IJCAI 2023. https://arxiv.org/abs/2304.10255
    """
    names = _names(known)
    if not names:
        raise MissingError("The space has no parameters.")
    complete = [row for row in known.points if row.state == "complete"]
    if len(complete) < MIN_TRIALS:
        raise MissingError(
            f"Importances need at least {MIN_TRIALS} completed {known.points_are}s, and there "
            f"{'is' if len(complete) == 1 else 'are'} {len(complete)}."
        )
    with warnings.catch_warnings():  # of few trials, which the caption says
        warnings.simplefilter("ignore", UserWarning)
        study = _study_of(known, complete) if known.is_repeated else known.study
        shares = optuna.importance.get_param_importances(study)
    ranked = sorted(shares.items(), key=lambda share: share[1])
    heads = short_names([name for name, _ in ranked])

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        values = [100 * share for _, share in ranked]
        axes.barh(range(len(ranked)), values, color=BLUE, height=0.62)
        for place, value in enumerate(values):
            axes.text(value, place, f" {value:.0f} %", va="center", fontsize=10)
        axes.set_yticks(range(len(ranked)), [cut(heads[name]) for name, _ in ranked])
        axes.set_ylim(-0.6, len(ranked) - 0.4)
        axes.set_xlim(0, max(*values, 1) * 1.14)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("importance, % of all")

    aim = "the best by the objective" if len(known.space.objectives) == 1 else "the Pareto front"
    return Content(
        pictures=[
            draw(
                "importances",
                plot,
                height_inches=1.0 + 0.36 * len(ranked),
                alt="Importance of each parameter: "
                + ", ".join(f"{name} {share:.0%}" for name, share in reversed(ranked))
                + ".",
                caption=f"How far each parameter decides whether a {known.points_are} is among {aim}, by "
                f"Optuna's PED-ANOVA over {len(complete)} completed {known.points_are}s. Of fewer than some "
                f"dozens it is a hint.{_BY_MEANS if known.is_repeated else ''}",
            )
        ]
    )


def _study_of(known: Knowledge, complete: Sequence[TrialRow]) -> optuna.Study:
    """Points as trials: with several trainings each, those that were repeated would count more."""
    study = optuna.create_study(directions=known.space.directions)
    for row in complete:
        drawn = known.trials[row.number]
        study.add_trial(
            optuna.trial.create_trial(
                values=row.values, params=drawn.params, distributions=drawn.distributions
            )
        )
    return study


def slices(known: Knowledge) -> Content:
    """The first objective against each parameter."""
    shown = quantity(known.metric)
    valued = [row for row in known.points if row.values]
    names = [name for name in _names(known) if any(name in row.params for row in valued)]
    if not names:
        raise MissingError("No trial with parameters has reported a value yet.")
    pictures = []
    for index, name in enumerate(names, start=1):
        rows = [row for row in valued if name in row.params]
        scale = _scale(known, name)
        pictures.append(
            draw(
                f"slice_{index:02d}",
                lambda figure, rows=rows, scale=scale: _draw_slice(
                    figure.subplots(), rows, scale, known, figure
                ),
                height_inches=3.2,
                alt=f"{shown.name} against {name} in {counted(len(rows), known.points_are)}.",
                caption=_slice_caption(scale, len(rows), len(valued), known.points_are),
            )
        )
    text = []
    if len(known.space.objectives) > 1:
        text.append(f"Of the objectives, {shown.name} is shown.")
    if known.is_repeated:
        text.append(known.about_points.strip())
    return Content(text=text, pictures=pictures)


def _slice_caption(scale: "_Scale", number: int, of: int, noun: str) -> str:
    values = (
        f"one of {counted(len(scale.values), 'value')}"
        if scale.is_category
        else f"from {setting_text(scale.values[0])} to {setting_text(scale.values[-1])}"
    )
    scaled = ", on a logarithmic scale" if scale.is_log else ""
    had = "" if number == of else f". {counted(number, noun)} of {of} had it"
    return f"{scale.name}: {values}{scaled}{had}."


def _draw_slice(
    axes: Axes, rows: Sequence[TrialRow], scale: "_Scale", known: Knowledge, figure: Figure
) -> None:
    shown = quantity(known.metric)
    for state, look in LOOKS.items():
        of_state = [row for row in rows if row.state == state]
        if not of_state:
            continue
        x = [scale.place(row.params[scale.name], row.number) for row in of_state]
        y = [row.values[0] * shown.factor for row in of_state if row.values]
        axes.scatter(x, y, label=state, zorder=3, **look.points())
        numbers = [row.number for row in of_state]
        spread_bars(axes, known, dict(zip(numbers, zip(x, y, strict=True), strict=True)), known.metric)
    best = known.best_point
    if best is not None and best.values and scale.name in best.params:
        x = scale.place(best.params[scale.name], best.number)
        axes.scatter(x, best.values[0] * shown.factor, label="champion", **CHAMPION)
    scale.set_up(axes)
    axes.set_xlabel(scale.name)
    name_y(axes, shown.label)
    axes.margins(y=0.12)
    legend(figure, handles_of(axes))


def parallel(known: Knowledge) -> Content:
    """Whole points side by side: an axis a parameter, a line a point. It lies on its side, to fit a phone."""
    shown_rows = [row for row in known.points if row.values and row.params]
    if not shown_rows:
        raise MissingError("No trial with parameters has reported a value yet.")
    objectives = known.space.objectives
    scales = [_objective_scale(known, index, shown_rows) for index in range(len(objectives))]
    scales += [_scale(known, name) for name in _names(known) if any(name in row.params for row in shown_rows)]
    has_unset = any(scale.value_of(row) is None for scale in scales for row in shown_rows)
    best = known.best_point

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        for row in reversed(shown_rows):
            look = LOOKS[row.state]
            points = [scale.share(scale.value_of(row), row.number) for scale in scales]
            is_champion = row is best
            axes.plot(
                points,
                range(len(scales)),
                color=VERMILION if is_champion else look.colour,
                linestyle="-" if is_champion else look.line,
                linewidth=2.6 if is_champion else 1.1,
                alpha=1.0 if is_champion else 0.7 if row.state == "complete" else 0.4,
                label=f"champion, trial {row.number}" if is_champion else row.state,
                zorder=4 if is_champion else 3 if row.state == "complete" else 2,
            )
        right = 1.16 if has_unset else 1.0
        for level, scale in enumerate(scales):
            axes.hlines(level, 0, 1, color=GREY, linewidth=1.0, zorder=1)
            _note(axes, scale.name, (0, level), above=True, ha="left", weight="bold")
            for share, text in scale.ticks():
                axes.plot(share, level, "|", color=GREY, markersize=6, zorder=1)
                side = "left" if share < 0.01 else "right" if share > 0.99 else "center"
                _note(axes, text, (share, level), above=False, ha=side)
        if has_unset:
            axes.vlines(right, -0.1, len(scales) - 0.9, color=PALE, linewidth=6, zorder=0)
            _note(axes, UNSET, (right, -0.1), above=True, ha="center")
        axes.set_ylim(len(scales) - 0.55, -0.45)
        axes.set_xlim(-0.03, right + (0.08 if has_unset else 0.03))
        axes.set_axis_off()
        legend(figure, handles_of(axes)[::-1])

    unset = f" Lines that pass {UNSET!r} lack that parameter." if has_unset else ""
    return Content(
        pictures=[
            draw(
                "parallel_coordinates",
                plot,
                height_inches=0.8 + 0.76 * len(scales),
                alt=f"A line for each of {counted(len(shown_rows), known.points_are)} over axes of "
                + listed([scale.name for scale in scales])
                + ".",
                caption=f"Each line from top to bottom is a {known.points_are}"
                f"{' at the mean of its trainings' if known.is_repeated else ''}, each row an axis of its "
                f"own.{unset}",
            )
        ]
    )


def _note(axes: Axes, text: str, place: tuple[float, float], *, above: bool, ha: str, **font: Any) -> None:
    """A text just above or below a place, on white so that lines do not strike it out."""
    axes.annotate(
        text,
        place,
        xytext=(0, 4 if above else -5),
        textcoords="offset points",
        ha=ha,
        va="bottom" if above else "top",
        fontsize=9,
        bbox={"facecolor": "white", "alpha": 0.8, "pad": 0.5, "linewidth": 0},
        zorder=5,
        **font,
    )


@dataclass(frozen=True)
class _Scale:
    """Where the values of one parameter, or objective, lie on an axis.

    Attributes:
        values: All choices of a category, or both ends of a range.
        read: Its value in a trial; None where the trial has none.
        factor: What values are multiplied with to be in the unit that is shown.
    """

    name: str
    values: tuple[Any, ...]
    read: Callable[[TrialRow], Any]
    is_category: bool = False
    is_log: bool = False
    is_whole: bool = False
    factor: float = 1.0

    def value_of(self, row: TrialRow) -> Any:
        return self.read(row)

    def place(self, value: Any, number: int) -> float:
        """On an axis of these values; trials of one category lie a little apart."""
        if not self.is_category:
            return float(value)
        jitter = (number * 0.618034) % 1 - 0.5
        return self.values.index(value) + 0.3 * jitter

    def share(self, value: Any, number: int) -> float:
        """From 0 at the low end to 1 at the high one; beyond where there is no value."""
        if value is None:
            return 1.16
        if self.is_category:
            jitter = 0.35 * ((number * 0.618034) % 1 - 0.5) / max(len(self.values), 2)
            return min(max(self._even(self.values.index(value)) + jitter, 0.0), 1.0)
        low, high = self.values
        if high == low:
            return 0.5
        if self.is_log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Shares, and what stands there."""
        if self.is_category:
            length = max(5, 48 // len(self.values))
            return [(self._even(i), cut(str(value), length)) for i, value in enumerate(self.values)]
        low, high = self.values
        if low == high:
            return [(0.5, setting_text(low * self.factor))]
        middle = (low * high) ** 0.5 if self.is_log else (low + high) / 2
        texts = [setting_text(value * self.factor) for value in (low, middle, high)]
        return list(zip((0.0, 0.5, 1.0), texts, strict=True))

    def set_up(self, axes: Axes) -> None:
        """Prepares the x axis of a plot of these values."""
        if self.is_category:
            texts = [cut(str(value), max(6, 44 // len(self.values))) for value in self.values]
            axes.set_xticks(range(len(self.values)), texts)
            axes.set_xlim(-0.6, len(self.values) - 0.4)
            return
        low, high = self.values
        if self.is_log and high > low:
            scale_log(axes, "x", low, high)
            pad = (high / low) ** 0.05
            axes.set_xlim(low / pad, high * pad)
            return
        pad = 0.05 * (high - low) or 0.5
        axes.set_xlim(low - pad, high + pad)
        if self.is_whole:
            whole_numbers(axes.xaxis)

    def _even(self, index: int) -> float:
        return index / (len(self.values) - 1) if len(self.values) > 1 else 0.5


def _names(known: Knowledge) -> list[str]:
    """Every parameter of the study, in the order of the space."""
    drawn = (name for row in known.rows for name in row.params)
    return list(dict.fromkeys([*known.space.parameters, *drawn]))


def _scale(known: Knowledge, name: str) -> _Scale:
    parameter = known.space.parameters.get(name)
    seen = [row.params[name] for row in known.rows if name in row.params]

    def read(row: TrialRow) -> Any:
        return row.params.get(name)

    if isinstance(parameter, FloatParameter | IntParameter):
        # Points that were enqueued by hand may lie on an end, none beyond.
        ends = (min([parameter.low, *seen]), max([parameter.high, *seen]))
        is_whole = isinstance(parameter, IntParameter)
        return _Scale(name, ends, read, is_log=parameter.log, is_whole=is_whole)
    known_choices = () if parameter is None else parameter.ends()
    return _Scale(name, tuple(dict.fromkeys([*known_choices, *seen])), read, is_category=True)


def _objective_scale(known: Knowledge, index: int, rows: Sequence[TrialRow]) -> _Scale:
    metric = known.space.objectives[index].metric
    shown = quantity(metric)
    values = [row.values[index] for row in rows if row.values]

    def read(row: TrialRow) -> float | None:
        return row.values[index] if row.values else None

    return _Scale(shown.label, (min(values), max(values)), read, factor=shown.factor)
