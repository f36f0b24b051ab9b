"""How trials look in a terminal: cells, short names, and tables that never wrap."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

MAX_HEAD = 15
_GENERIC = ("name", "weight")
_GAP = 2
_LOOKS = {  # symbol and style; the word beside them carries the meaning, for who sees no colour
    "complete": ("✓", "bold blue"),
    "running": ("●", "yellow"),
    "pruned": ("○", "dim"),
    "infeasible": ("⊘", "dim"),
    "failed": ("✗", "bold red"),
    "interrupted": ("‖", "magenta"),
}
STATE_WIDTH = 2 + max(map(len, _LOOKS))


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        keep: 0: whatever happens. Else it may be left out, those of the highest number first.
        width: At least so many characters, so that a table that changes keeps its shape.
    """

    head: str
    cells: Sequence[str | Text]
    right: bool = False
    keep: int = 0
    width: int = 0

    @property
    def needed(self) -> int:
        """Characters of its widest cell."""
        texts = (cell.plain if isinstance(cell, Text) else cell for cell in self.cells)
        return max([self.width, cell_len(self.head), *map(cell_len, texts)])


def fitted_table(columns: Sequence[Column], *, width: int) -> Table:
    """Makes a table of the columns that fit the width, none of which wraps."""
    kept = list(columns)
    while sum(column.needed + _GAP for column in kept) - _GAP > width:
        least = max(kept, key=lambda column: column.keep)
        if least.keep == 0:
            break
        kept.remove(least)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for column in kept:
        justify = "right" if column.right else "left"
        table.add_column(
            column.head, no_wrap=True, justify=justify, min_width=column.width, overflow="ellipsis"
        )
    for cells in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*cells)
    return table


def state_cell(state: str, *, symbols: bool) -> Text:
    """A trial's state, as a symbol and a word."""
    symbol, style = _LOOKS[state]
    return Text(f"{symbol} {state}" if symbols else state, style=style)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """A short name for each dotted one: `optimizer.lr` is lr, `losses.cosine.weight` is cosine."""
    parts = {name: name.replace("/", ".").split(".") for name in names}
    for name, keys in parts.items():
        if len(keys) > 1 and keys[-1] in _GENERIC:
            parts[name] = keys[:-1]
    short = {}
    for name, keys in parts.items():
        lengths = range(1, len(keys) + 1)
        alike = [other for other in parts if other != name]
        length = next(
            (n for n in lengths if all(parts[other][-n:] != keys[-n:] for other in alike)), len(keys)
        )
        short[name] = _cut(".".join(keys[-length:]), MAX_HEAD)
    return short


def metric_text(value: float | None) -> str:
    """A metric in few characters; nothing where there is none."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"


def setting_text(value: Any) -> str:
    """A parameter's value in few characters; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """A time in two units: `41s`, `3m05s`, `2h07m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
