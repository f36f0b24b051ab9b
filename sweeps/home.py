"""Where things live: databases, artifacts, studies and caches, always as absolute paths.

Ray changes the working directory of its workers, so a relative path would mean another place there.
"""

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distill.errors import InputError, RefusedError

HOME_VARIABLE = "SWEEPS_HOME"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Home:
    """The folder that holds every study, and the tracking server that its runs go to.

    Attributes:
        root: Absolute path of the folder.
        tracking_uri: Where MLflow records: a database in the folder unless told otherwise.
    """

    root: Path
    tracking_uri: str

    @classmethod
    def at(cls, root: str | None = None, tracking_uri: str | None = None) -> "Home":
        """The home that the arguments name, else the environment, else `./runs`."""
        path = Path(root or os.environ.get(HOME_VARIABLE) or "runs").expanduser().absolute()
        uri = tracking_uri or os.environ.get(TRACKING_VARIABLE) or f"sqlite:///{path / 'mlflow.db'}"
        return cls(root=path, tracking_uri=uri)

    @property
    def optuna_url(self) -> str:
        """The database of all studies."""
        return f"sqlite:///{self.root / 'optuna.db'}"

    @property
    def artifacts(self) -> Path:
        """Where MLflow keeps files when it is a database without a server."""
        return self.root / "artifacts"

    @property
    def has_tracking_server(self) -> bool:
        """Whether a server records, and keeps files where it is set up to; else this home keeps them."""
        return not self.tracking_uri.startswith(("sqlite:", "postgresql", "mysql", "mssql"))

    def study(self, name: str) -> "StudyFolder":
        """The folder of one study, which need not exist.

        Raises:
            InputError: If `name` cannot be a study's name.
        """
        if not STUDY_NAME.fullmatch(name):
            raise InputError(
                f"a study's name must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter "
                f"or digit, got {name!r}"
            )
        return StudyFolder(root=self.root / "studies" / name)

    def ensure(self) -> None:
        """Makes the folder and what belongs in it."""
        for folder in (self.root / "studies", self.root / "cache", self.artifacts):
            folder.mkdir(parents=True, exist_ok=True)

    def check_writable(self) -> None:
        """Tries whether the folder can be written, or made, and leaves nothing behind.

        Raises:
            RefusedError: If it cannot.
        """
        try:
            # The nearest folder that exists: what is to be made would stand in it.
            nearest = next(path for path in (self.root, *self.root.parents) if path.exists())
            tempfile.TemporaryFile(dir=nearest).close()
        except OSError as error:
            raise RefusedError(
                f"the home {self.root} cannot be written ({error.strerror}): choose another with --home or "
                f"{HOME_VARIABLE}"
            ) from None


@dataclass(frozen=True, kw_only=True)
class StudyFolder:
    """The files of one study."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def space(self) -> Path:
        """The resolved search space: all that `sweeps resume` needs."""
        return self.root / "space.yaml"

    @property
    def log(self) -> Path:
        """What Ray, MLflow and Optuna had to say."""
        return self.root / "sweep.log"

    @property
    def driver_pid(self) -> Path:
        """Written by the driver that holds the lock."""
        return self.root / "driver.pid"

    def trial(self, number: int) -> Path:
        """The folder of one trial's checkpoints."""
        return self.root / "trials" / f"{number:04d}"

    @contextmanager
    def driven(self) -> Iterator[None]:
        """Holds this study for one driver. The lock falls with the process, however it ends.

        Raises:
            RefusedError: If another driver holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "driver.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RefusedError(
                    f"study {self.name} is being driven by process {self.read_driver_pid()}: stop it first "
                    f"with `sweeps stop {self.name}`"
                ) from None
            self.driver_pid.write_text(f"{os.getpid()}\n")
            try:
                yield
            finally:
                self.driver_pid.unlink(missing_ok=True)

    def read_driver_pid(self) -> int | None:
        """The process that drives this study; None when none does."""
        try:
            with (self.root / "driver.lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return int(self.driver_pid.read_text())
