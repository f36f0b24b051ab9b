"""Faces two by two, with a line under each pair."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from torch import Tensor

COLUMNS = 3


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two faces side by side.

    Attributes:
        left, right: RGB, uint8, of shape (3, H, H).
        text: What is written below.
    """

    left: Tensor
    right: Tensor
    text: str


def height_inches(number: int) -> float:
    """Of a picture of so many pairs."""
    return 1.2 * -(-number // COLUMNS) + 0.05


def draw_pairs(figure: Figure, pairs: Sequence[Pair]) -> None:
    """Fills a figure with pairs, row by row. Pixels of small faces stay as they are."""
    axes_grid = figure.subplots(-(-len(pairs) // COLUMNS), COLUMNS, squeeze=False)
    for axes in axes_grid.flat:
        axes.set_axis_off()
    for axes, pair in zip(axes_grid.flat, pairs, strict=False):
        for place, image in enumerate((pair.left, pair.right)):
            inset = axes.inset_axes((0.51 * place, 0.0, 0.49, 1.0))
            inset.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
            inset.set_axis_off()
        axes.set_box_aspect(0.49)
        axes.text(0.5, -0.04, pair.text, transform=axes.transAxes, ha="center", va="top", fontsize=9)
