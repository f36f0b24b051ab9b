"""Gates and versions as aligned text."""

import time
from collections.abc import Sequence

from sweeps.columns import duration
from sweeps.promotion.gates import Verdict
from sweeps.registry import RegisteredVersion
from sweeps.space.settings import number

_DAY_S = 86_400


def gate_table(verdicts: Sequence[Verdict]) -> str:
    """What each gate asked, what was measured, and what it said, a line each."""
    rows = [
        (
            verdict.gate.metric,
            str(verdict.gate).removeprefix(verdict.gate.metric).strip(),
            "" if verdict.value is None else number(verdict.value),
            "passed" if verdict.passed else "FAILED",
            verdict.note,
        )
        for verdict in verdicts
    ]
    return aligned([("gate", "limit", "measured", "verdict", ""), *rows], right=(2,))


def version_table(versions: Sequence[RegisteredVersion], *, now: float | None = None) -> str:
    """Every version, what points to it, what its gates said and how old it is, a line each.

    Args:
        now: In seconds since 1970; by default the present.
    """
    rows = [
        (
            found.model,
            found.version,
            ", ".join(found.aliases) or ("(incomplete)" if found.state == "incomplete" else ""),
            _gates(found),
            found.tags.get("study", ""),
            found.tags.get("trial", ""),
            _age((time.time() if now is None else now) - found.registered_at),
        )
        for found in versions
    ]
    return aligned([("model", "version", "alias", "gates", "study", "trial", "age"), *rows], right=(1, 5, 6))


def aligned(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Rows of cells as lines, each column as wide as its widest cell.

    Args:
        right: Columns that are flush right, by index.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _gates(found: RegisteredVersion) -> str:
    passed = sum(gate["passed"] for gate in found.gates)
    return f"{passed}/{len(found.gates)} passed" if found.gates else "none"


def _age(seconds: float) -> str:
    return f"{seconds / _DAY_S:.0f} days" if seconds >= 2 * _DAY_S else duration(max(0.0, seconds))
