"""What a preflight check finds."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Check:
    """One preflight check.

    Attributes:
        name: What was looked at.
        ok: Whether it is as it must be.
        finding: One sentence: what was found and, where it is wrong, what mends it.
    """

    name: str
    ok: bool
    finding: str
