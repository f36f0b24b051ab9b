"""The plots of the findings, one a paper.

R: the benchmark as it is and then its resamples, S: students of an arm
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType
from torch import Tensor

from benchmarks.findings_statistics import TEACHER, Finding, MeasuredArm, estimate

DATA = ("authentic", "synthetic", "mixed")
"""What fair KD's students are trained on; each name begins those of its arms."""
Resolutions = Mapping[int, tuple[Finding, Mapping[str, MeasuredArm]]]
"""Bridge distillation's claims and what was measured, by the side of the student's faces in px."""
BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#8c8c8c", "#222222"
"""Okabe and Ito's, which people of any colour vision tell apart."""
STYLE: dict[RcKeyType, Any] = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.columnspacing": 1.2,
}
WIDTH_INCHES = 8


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _bar(
    axes: Axes, y: float, value_R: Tensor, value_S: Sequence[float], *, colour: str, marker: str
) -> None:
    """A mean, its interval and, a little below it, the single students; all in percent."""
    mean = estimate(100 * value_R)
    axes.hlines(y, mean.interval.low, mean.interval.high, color=colour, linewidth=2.5)
    axes.plot(mean.value, y, marker, color=colour, markersize=9)
    axes.scatter(
        [100 * value for value in value_S],
        [y + 0.2] * len(value_S),
        s=16,
        color=colour,
        alpha=0.6,
        linewidths=0,
    )


def plot_arms(measured: Mapping[str, MeasuredArm], path: Path) -> None:
    names = [name for name in measured if name != TEACHER]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 1.4 + 0.6 * len(names)), layout="constrained")
        axes = figure.subplots()
        for y, name in enumerate(names):
            arm = measured[name]
            _bar(axes, y, arm.accuracy, arm.student_accuracies, colour=BLUE, marker="o")
        axes.axvline(100 * measured[TEACHER].accuracy[0].item(), color=BLACK, linestyle="--", label=TEACHER)
        figure.legend(loc="outside upper right")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("benchmark accuracy, %")
        _save(figure, path)


def plot_fair_kd(measured: Mapping[str, MeasuredArm], floors: Mapping[str, float], path: Path) -> None:
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 3.8), layout="constrained")
        accuracy_axes, std_axes = figure.subplots(1, 2, sharey=True)
        for row, data in enumerate(DATA):
            for kd, offset, colour, marker in (("without", -0.25, ORANGE, "s"), ("with", 0.2, BLUE, "o")):
                arm, y = measured[f"{data}, {kd}"], row + offset
                look = {"colour": colour, "marker": marker}
                _bar(accuracy_axes, y, arm.accuracy, arm.student_accuracies, **look)
                _bar(std_axes, y, arm.group_std, arm.student_group_stds, **look)
                floor = 100 * floors[f"{data}, {kd}"]
                std_axes.vlines(floor, y - 0.14, y + 0.26, color=GREY, linewidth=4)
        teacher = measured[TEACHER]
        accuracy_axes.axvline(100 * teacher.accuracy[0].item(), color=BLACK, linestyle="--")
        std_axes.axvline(100 * teacher.group_std[0].item(), color=BLACK, linestyle="--")
        std_axes.set_xlim(left=0)
        accuracy_axes.set_yticks(range(len(DATA)), DATA)
        accuracy_axes.set_ylim(len(DATA) - 0.4, -0.6)
        for axes, label in ((accuracy_axes, "benchmark accuracy, %"), (std_axes, "STD over groups, points")):
            axes.grid(axis="y", visible=False)
            axes.set_xlabel(label)
        handles = [
            *accuracy_axes.plot([], [], "s", color=ORANGE, label="without KD"),
            *accuracy_axes.plot([], [], "o", color=BLUE, label="with KD"),
            *accuracy_axes.plot([], [], "--", color=BLACK, label=TEACHER),
            *accuracy_axes.plot([], [], color=GREY, linewidth=4, label="a perfectly fair network"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=4)
        _save(figure, path)


def plot_resolutions(resolutions: Resolutions, path: Path) -> None:
    first = next(iter(resolutions.values()))[0]
    looks = zip(
        [TEACHER, *(arm.name for arm in first.arms)],
        (BLACK, ORANGE, GREEN, BLUE),
        ("D--", "s-", "^-", "o-"),
        (-0.75, -0.25, 0.25, 0.75),
        strict=True,
    )
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 4.4), layout="constrained")
        axes = figure.subplots()
        for name, colour, look, offset in looks:
            arms = [measured[name] for _, measured in resolutions.values()]
            means = [estimate(100 * arm.accuracy) for arm in arms]
            # Side by side, lest intervals of one resolution cover each other.
            x = [size_px + offset for size_px in resolutions]
            axes.plot(x, [mean.value for mean in means], look, color=colour, markersize=7, label=name)
            axes.vlines(
                x,
                [m.interval.low for m in means],
                [m.interval.high for m in means],
                color=colour,
                linewidth=2,
            )
            if name != TEACHER:
                for position, arm in zip(x, arms, strict=True):
                    students = [100 * accuracy for accuracy in arm.student_accuracies]
                    axes.scatter([position + 0.2] * len(students), students, s=12, color=colour, linewidths=0)
        axes.set_xticks(list(resolutions))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("side of the faces, px")
        axes.set_ylabel("benchmark accuracy, %")
        figure.legend(loc="outside upper center", ncols=4)
        _save(figure, path)
