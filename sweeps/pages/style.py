"""How every picture of a report looks: one style, sizes that a phone can show, colours for any eyes.

States are told apart by marker and fill beside their colour. Colours are those of Okabe and Ito, "Color
Universal Design", 2008, https://jfly.uni-koeln.de/color.
"""

import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from matplotlib.typing import RcKeyType

from sweeps.pages.content import Picture

BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#56B4E9",
    "#CC79A7",
)
INK, GREY, PALE = "#24292f", "#767d86", "#d6d9dd"
WIDTH_INCHES = 5.4
"""Of every picture: on a phone its letters are still read, and two stand side by side on a desk."""
SHOWN_PX_PER_INCH, FILE_PX_PER_INCH = 96, 192
MAX_TICK_LABEL = 18
LEGEND_LETTERS, HANDLE_LETTERS = 62, 7
"""Letters in a row of a legend, and how many of them a handle takes the room of."""
_LOG_TICKS = ((1000, (1.0,)), (60, (1.0, 3.0)), (4, (1.0, 2.0, 5.0)))
"""Where a decade is ticked, by the ratio of an axis' ends above which it is."""
STYLE: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8eaed",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.4,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    # Names of users reach pictures as they are: a dollar sign begins no formula.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Look:
    """How the trials of one state are drawn."""

    colour: str
    marker: str
    filled: bool
    line: str = "-"

    def points(self, size: float = 44) -> dict[str, Any]:
        """For `Axes.scatter`."""
        if self.marker == "x":
            return {"c": self.colour, "marker": self.marker, "s": size, "linewidths": 1.6}
        face = self.colour if self.filled else "white"
        return {"c": face, "edgecolors": self.colour, "marker": self.marker, "s": size, "linewidths": 1.2}


LOOKS = {
    "complete": Look(BLUE, "o", filled=True),
    "pruned": Look(GREY, "o", filled=False, line="--"),
    "infeasible": Look(ORANGE, "v", filled=True, line="-."),
    "failed": Look(PURPLE, "x", filled=True, line=":"),
    "interrupted": Look(SKY, "s", filled=False, line=":"),
    "running": Look(GREEN, "D", filled=True),
}
CHAMPION: dict[str, Any] = {
    "c": VERMILION,
    "marker": "*",
    "s": 210,
    "edgecolors": "white",
    "linewidths": 1.0,
    "zorder": 6,
}
TEACHER_LINE: dict[str, Any] = {"color": INK, "linestyle": (0, (5, 3)), "linewidth": 1.4}


def draw(
    name: str, plot: Callable[[Figure], object], *, alt: str, caption: str, height_inches: float = 3.5
) -> Picture:
    """Draws a picture.

    Args:
        plot: Fills an empty figure, which is laid out so that nothing of it is cut.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        plot(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=FILE_PX_PER_INCH, metadata={"Software": None})
    return Picture(
        name=name,
        png=file.getvalue(),
        alt=alt,
        caption=caption,
        width_px=round(WIDTH_INCHES * SHOWN_PX_PER_INCH),
        height_px=round(height_inches * SHOWN_PX_PER_INCH),
    )


def legend(figure: Figure, handles: Iterable[Any]) -> None:
    """Explains the marks above the axes, where they cover nothing. One of each name is enough."""
    by_name = {str(handle.get_label()): handle for handle in handles}
    figure.legend(
        handles=list(by_name.values()),
        loc="outside upper left",
        ncols=_num_columns([len(n) for n in by_name]),
    )


def _num_columns(lengths: list[int]) -> int:
    """How many columns of a legend fit beside each other, given its names' lengths in letters."""
    for number in range(len(lengths), 1, -1):
        rows, longer = divmod(len(lengths), number)
        ends = list(accumulate(rows + (column < longer) for column in range(number)))
        columns = [lengths[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        if sum(max(column) + HANDLE_LETTERS for column in columns) <= LEGEND_LETTERS:
            return number
    return 1


def name_y(axes: Axes, text: str) -> None:
    """Names the y axis above its end, where even a long name has room."""
    axes.set_title(cut(text, 60), loc="left", fontsize=11, color=INK)


def handles_of(axes: Axes) -> list[Any]:
    """What a legend of these axes explains."""
    return axes.get_legend_handles_labels()[0]


def whole_numbers(axis: Axis) -> None:
    """Ticks at whole numbers alone: trials and epochs have no halves."""
    axis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def scale_log(axes: Axes, which: str, low: float, high: float) -> None:
    """Scales one axis by its logarithm, with ticks that are written out.

    Args:
        which: `x` or `y`.
        low, high: The values that are to be seen, above 0.
    """
    getattr(axes, f"set_{which}scale")("log")
    axis: Axis = getattr(axes, f"{which}axis")
    subs = next(
        (subs for above, subs in _LOG_TICKS if high / low > above), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    )
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{sub}e{decade}") for decade in decades for sub in subs]
    if len(inside := _between(ticks, low, high)) < 3:
        inside = _between(MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high), low, high)
    axis.set_major_locator(FixedLocator(inside))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _between(ticks: Iterable[float], low: float, high: float) -> list[float]:
    return [float(tick) for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def cut(text: str, length: int = MAX_TICK_LABEL) -> str:
    """A text that fits beside a tick."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
