"""What a preflight check finds."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Check:
    """One preflight check.

    Attributes:
        name: What was looked at.
        ok: Whether it is as it must be.
        finding: One sentence: what was found and, where it is wrong, what mends it.
        note: Whether it can stay as it is, but would better be mended.
    """

    name: str
    ok: bool
    finding: str
    note: bool = False

    @property
    def verdict(self) -> str:
        """In a word."""
        return "WRONG" if not self.ok else "note" if self.note else "ok"


def size(num_bytes: float) -> str:
    """A size on disk, as people read it: `3.1 MiB`."""
    power = next((power for power in (1, 2) if num_bytes < 1000 * 1024**power), 3)
    return f"{num_bytes / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"
