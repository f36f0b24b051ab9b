"""What must be known to repeat a sweep: the code, its uncommitted difference, and what it ran on."""

import getpass
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "ray",
    "torch",
    "optuna",
    "mlflow",
    "numpy",
    "pydantic",
    "safetensors",
    "face-distillation-sweeps",
)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a sweep's code came from.

    Attributes:
        commit: The git commit of this package's source; None when it is not a checkout.
        difference: The uncommitted difference against that commit; empty when there is none.
        command: The command line.
    """

    commit: str | None
    difference: str
    command: str

    @classmethod
    def of_this_process(cls) -> "Provenance":
        """Looks at the code that is running."""
        return cls(
            commit=_git("rev-parse", "HEAD"),
            difference=_git("diff", "HEAD") or "",
            command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        )

    def tags(self) -> dict[str, str]:
        """As tags of a run, under the names that MLflow's pages know."""
        tags = {
            "mlflow.source.name": self.command,
            "mlflow.source.type": "LOCAL",
            "mlflow.user": getpass.getuser(),
            "uncommitted": str(bool(self.difference)).lower(),
        }
        return tags | ({"mlflow.source.git.commit": self.commit} if self.commit else {})

    def environment(self) -> dict[str, str]:
        """Versions of what decides a trial's numbers."""
        return {
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{name: metadata.version(name) for name in PACKAGES},
        }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
