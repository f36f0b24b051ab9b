"""Where a trial of a population comes from: whose state it took over when, and how its settings changed."""

from pathlib import Path

from distill.settings import Settings
from sweeps.space.parameters import Scalar

LINEAGE = "lineage.jsonl"


class Exploit(Settings):
    """A trial that went on from another's state."""

    trial: int
    """Who."""
    donor: int
    """From whom."""
    epoch: int
    """After which epoch it left its own state."""
    donor_epoch: int
    """After which epoch the donor's state was kept: the trial goes on with the one after that."""
    before: dict[str, Scalar]
    """The trial's parameters until then, by dotted name."""
    after: dict[str, Scalar]
    """Those since: the donor's, changed."""


def record(exploit: Exploit, directory: Path) -> None:
    """Adds to the lineage of the trial in `directory`."""
    with (directory / LINEAGE).open("a") as file:
        file.write(exploit.model_dump_json() + "\n")


def read_lineage(directory: Path) -> list[Exploit]:
    """The lineage of the trial in `directory`, oldest first; empty where it went its own way."""
    path = directory / LINEAGE
    lines = path.read_text().splitlines() if path.exists() else []
    return [Exploit.model_validate_json(line) for line in lines]
