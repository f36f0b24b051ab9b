"""What must be known to repeat a trial: the code, its uncommitted difference, and what it ran on."""

import functools
import getpass
import hashlib
import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pydantic import TypeAdapter

from distill.config import TrialConfig
from distill.teachers import AnyTeacherSettings
from sweeps.home import masked

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

_TEACHER: TypeAdapter[AnyTeacherSettings] = TypeAdapter(AnyTeacherSettings)


SUBMITTED = Path(__file__).parents[1] / "provenance.json"
"""Beside code that was sent to a cluster: where it came from."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a sweep's code came from.

    Attributes:
        commit: The git commit of this package's source; None when it is not a checkout.
        difference: The uncommitted difference against that commit, new Python files included; empty when
            there is none.
        command: The command line.
    """

    commit: str | None
    difference: str
    command: str

    @classmethod
    def of_this_process(cls) -> "Provenance":
        """Looks at the code that is running; of a job, at what was said where it was submitted."""
        if SUBMITTED.exists():
            return cls(**json.loads(SUBMITTED.read_text()))
        command = masked(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))
        # An installed package may lie inside a checkout of something else.
        if _git("ls-files", "--error-unmatch", __file__) is None:
            return cls(commit=None, difference="", command=command)
        commit = (_git("rev-parse", "HEAD") or "").strip()
        return cls(commit=commit or None, difference=_difference(), command=command)

    @property
    def difference_digest(self) -> str:
        """Names the difference."""
        return _short_digest(self.difference)

    @property
    def environment_json(self) -> str:
        """`environment()`, as the file that every run has."""
        return json.dumps(self.environment(), indent=2) + "\n"

    def tags(self) -> dict[str, str]:
        """As tags of a run, under the names that MLflow's pages know."""
        tags = {
            "mlflow.source.name": self.command,
            "mlflow.source.type": "LOCAL",
            "mlflow.user": getpass.getuser(),
            "uncommitted": str(bool(self.difference)).lower(),
            "environment_digest": _short_digest(self.environment_json),
        }
        if self.commit:
            tags["mlflow.source.git.commit"] = self.commit
        if self.difference:
            tags["uncommitted_digest"] = self.difference_digest
        return tags

    def environment(self) -> dict[str, str]:
        """Versions of what decides a trial's numbers."""
        return dict(_environment())

    def difference_file(self) -> dict[str, str]:
        """The difference by its path among the sweep's artifacts, if there is one."""
        return {f"uncommitted/{self.difference_digest}.diff": self.difference} if self.difference else {}


@functools.cache
def _environment() -> dict[str, str]:
    """Read once: every trial has the same, and the packages' files are many."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def digests_of(config: TrialConfig) -> dict[str, str]:
    """What a trial learns from, by digest: its teacher, and its faces or what draws them.

    Loads the teacher, once in a process for all trials that have the same.
    """
    training = "generator_digest" if config.faces.draws else "training_digest"
    return {
        "teacher_digest": _teacher_digest(config.teacher.model_dump_json()),
        training: config.faces.training_digest(),
    }


@functools.cache
def _teacher_digest(settings_json: str) -> str:
    return _TEACHER.validate_json(settings_json).load().digest


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _difference() -> str:
    """Against the last commit: changes, and Python files and spaces that git does not know yet."""
    root = Path((_git("rev-parse", "--show-toplevel") or "").strip())
    unknown = _git("ls-files", "--others", "--exclude-standard", "*.py", "*.yaml", at=root) or ""
    return (_git("diff", "HEAD", at=root) or "") + "".join(
        _git("diff", "--no-index", "--", "/dev/null", name, at=root, success=1) or ""
        for name in unknown.splitlines()
    )


def _git(*arguments: str, at: Path = Path(__file__).parent, success: int = 0) -> str | None:
    """What git says of a checkout; None where it cannot."""
    command = ["git", "-C", str(at), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == success else None
