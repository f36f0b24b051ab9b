"""The `sweeps` command: parse, call, print. No logic.

Heavy imports wait inside the commands, so that `--help` answers at once.
"""

from sweeps.cli import cluster, driving, models, reading
from sweeps.cli.command import main

__all__ = ["cluster", "driving", "main", "models", "reading"]
