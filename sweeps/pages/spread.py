"""How far the trainings of one point lie apart, drawn where the point is."""

from collections.abc import Mapping

from matplotlib.axes import Axes

from sweeps.pages.knowledge import Knowledge
from sweeps.pages.quantities import quantity
from sweeps.pages.style import GREY


def spread_bars(axes: Axes, known: Knowledge, places: Mapping[int, tuple[float, float]], metric: str) -> None:
    """Draws a standard deviation of a metric to either side of each point that has several seeds.

    Args:
        places: Where points are drawn, by their number: x, and the metric in the unit that it is shown in.
    """
    halves = {
        number: known.spreads[number][metric] * quantity(metric).factor
        for number in places
        if metric in known.spreads.get(number, {})
    }
    if halves:
        x, y = zip(*(places[number] for number in halves), strict=True)
        axes.errorbar(
            x, y, yerr=list(halves.values()), fmt="none", ecolor=GREY, elinewidth=1.4, capsize=3, zorder=2.5
        )
