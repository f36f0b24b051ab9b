"""The table that benchmarks end in, as Markdown and as JSON, and what became slower since an earlier one."""

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.row import Goal, Row
from distill.errors import InputError

PACKAGES = ("torch", "ray", "optuna", "mlflow", "numpy")
HEADINGS = ("what", "against", "unit", "ours", "other", "ratio (quartiles)", "goal", "met")


@dataclass(frozen=True, kw_only=True)
class Table:
    """All rows of one run.

    Attributes:
        quick: Whether everything was as small as it gets: the figures then mean nothing.
        made: On what, with what and when: names and values.
    """

    rows: list[Row]
    quick: bool
    made: dict[str, str]

    def markdown(self) -> str:
        """The table for people, notes below it."""
        lines = [_cells(row) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(HEADINGS, *lines, strict=True)]
        ruled = [HEADINGS, tuple("-" * width for width in widths), *lines]
        table = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
            for cells in ruled
        ]
        notes = [f"- {row.what}: {row.note}" for row in self.rows if row.note]
        made = ", ".join(f"{name} {value}" for name, value in self.made.items())
        title = ["The least sizes: these figures mean nothing.", ""] if self.quick else []
        return "\n".join([*title, *table, "", *notes, "", made])

    def write(self, path: Path) -> None:
        """Writes it as JSON, beside the place and then to it."""
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(json.dumps(asdict(self), indent=2) + "\n")
        os.replace(beside, path)


def read_table(path: Path) -> Table:
    """Reads what `Table.write` wrote.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        rows = [Row(**{**row, "goal": Goal(**row["goal"])}) for row in document["rows"]]
        return Table(rows=rows, quick=document["quick"], made=document["made"])
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no table of benchmarks: {error}") from None


def slower(now: Table, before: Table) -> list[str]:
    """The rows that became worse by more than their spread, a sentence each.

    That is where the middle halves of the repetitions, then and now, do not touch. Rows that only one of the
    tables has are passed over.

    Raises:
        InputError: If one table holds real figures and the other does not.
    """
    if now.quick != before.quick:
        raise InputError("a run of the least sizes must not be compared with a real one")
    former = {row.name: row for row in before.rows}
    return [
        f"{row.name} became slower: {_number(former[row.name].median)} before, {_number(row.median)} now "
        f"({row.what}, {'ratio' if row.other is not None else row.unit}, {row.goal.side} is better)"
        for row in now.rows
        if row.name in former and _is_worse(row, former[row.name])
    ]


def of_this_machine() -> dict[str, str]:
    """What a table was made on, with and when."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit or "unknown",
        "CPU": f"{_processor()} ({os.cpu_count()} cores)",
        **({"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "Python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def _is_worse(now: Row, before: Row) -> bool:
    if now.goal.side == "at least":
        return now.quartiles[1] < before.quartiles[0]
    return now.quartiles[0] > before.quartiles[1]


def _cells(row: Row) -> tuple[str, ...]:
    lower, upper = row.quartiles
    spread = f"{_number(row.median)} ({_number(lower)} to {_number(upper)})"
    return (
        row.what,
        row.against or "-",
        row.unit,
        spread if row.other is None else _number(median(row.ours)),
        "-" if row.other is None else _number(median(row.other)),
        "-" if row.other is None else spread,
        str(row.goal),
        "yes" if row.meets_goal else "no",
    )


def _number(value: float) -> str:
    """Three digits that count; whole numbers from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
