"""Where things live: databases, artifacts, studies and caches, always as absolute paths.

Ray changes the working directory of its workers, so a relative path would mean another place there.
"""

import fcntl
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from distill.errors import InputError, RefusedError

if TYPE_CHECKING:
    from sweeps.depot import Depot
    from sweeps.study_lock import StudyLock

HOME_VARIABLE = "SWEEPS_HOME"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
STORAGE_VARIABLE = "SWEEPS_STORAGE"
LOCK_TIMEOUT_S = 0.5
"""How long a driver waits for the lock: who only looks whether it is held has it for an instant."""
STORE = "s3://"
"""How the address of a home begins that is no folder."""
COPIES = Path(f"/var/tmp/sweeps-{os.getuid()}")
"""Where a machine works on homes that are in a store."""
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Home:
    """The folder that holds every study, the tracking server that its runs go to, and Optuna's storage.

    A home in an object store is a folder too, one on each machine that uses it: `sweeps.depot` hands on what
    another needs.

    Both addresses may hold a password, which is written to no file and shown nowhere: see `masked`.

    Attributes:
        root: Absolute path of the folder.
        tracking_uri: Where MLflow records: a database in the folder unless told otherwise.
        optuna_url: Where Optuna keeps all studies: a database in the folder unless told otherwise. Homes that
            share one also share the names of studies.
        store: Where in an object store its machines meet; None where they share the folder.
    """

    root: Path
    tracking_uri: str = field(repr=False)
    optuna_url: str = field(repr=False)
    store: str | None = None

    @classmethod
    def at(
        cls, root: str | None = None, tracking_uri: str | None = None, storage: str | None = None
    ) -> "Home":
        """The home that the arguments name, else the environment, else `./runs`.

        Raises:
            InputError: If `root` is an address other than of S3, or of S3 and one of the others is a file.
        """
        folder = root or os.environ.get(HOME_VARIABLE) or "runs"
        tracking_uri = tracking_uri or os.environ.get(TRACKING_VARIABLE)
        storage = storage or os.environ.get(STORAGE_VARIABLE)
        if "://" in folder:
            return cls._in_store(folder, tracking_uri, storage)
        path = Path(folder).expanduser().absolute()
        return cls(
            root=path,
            tracking_uri=tracking_uri or f"sqlite:///{path / 'mlflow.db'}",
            optuna_url=storage or f"sqlite:///{path / 'optuna.db'}",
        )

    @classmethod
    def _in_store(cls, address: str, tracking_uri: str | None, storage: str | None) -> "Home":
        is_one = re.fullmatch(rf"{STORE}[^/?#@]+(/[^/?#]+)*/?", address)
        if not is_one or ".." in address.split("/"):
            raise InputError(f"the home must be a folder or {STORE}BUCKET/PATH, got {masked(address)}")
        if storage is None or not storage.startswith("postgresql"):
            raise InputError(
                f"a home in a store needs a PostgreSQL, which keeps its studies and their locks: set "
                f"{STORAGE_VARIABLE}, or leave {address} for a folder; got {masked(storage or 'none')}"
            )
        if tracking_uri is None or not tracking_uri.startswith(("http://", "https://")):
            raise InputError(
                f"a home in a store needs MLflow's server, which keeps its records: set {TRACKING_VARIABLE}, "
                f"or leave {address} for a folder; got {masked(tracking_uri or 'none')}"
            )
        store = address.rstrip("/")
        path = COPIES / store.removeprefix(STORE)
        return cls(root=path, tracking_uri=tracking_uri, optuna_url=storage, store=store)

    @property
    def address(self) -> str:
        """What `--home` calls it."""
        return self.store or str(self.root)

    @property
    def depot(self) -> "Depot | None":
        """Hands its folders on; None where its machines share them."""
        if self.store is None:
            return None
        from sweeps.depot import Depot

        return Depot(self.store, self.root)

    def fetch(self, names: Collection[str]) -> None:
        """Takes over what other machines left: which studies there are, and the students of some.

        Args:
            names: The studies whose students are needed.

        Raises:
            RefusedError: If its store cannot be read, or somebody else has taken the place of its copies.
        """
        if (depot := self.depot) is None:
            return
        COPIES.mkdir(mode=0o700, exist_ok=True)
        if COPIES.is_symlink() or COPIES.stat().st_uid != os.getuid():
            raise RefusedError(f"{COPIES}, where this machine works on {self.store}, is another user's")
        from sweeps.depot import students

        for folder in depot.folders(self.root / "studies"):
            name, *below = folder.relative_to(self.root / "studies").parts
            if not below:
                depot.pull(folder, StudyFolder.is_space)
            elif name in names:
                depot.pull(folder, students)

    @property
    def artifacts(self) -> Path:
        """Where MLflow keeps files when it is a database without a server."""
        return self.root / "artifacts"

    @property
    def has_tracking_server(self) -> bool:
        """Whether a server records, and keeps files where it is set up to; else this home keeps them."""
        return not self.tracking_uri.startswith(("sqlite:", "postgresql", "mysql", "mssql"))

    @property
    def missing_database(self) -> Path | None:
        """The file of its MLflow where it does not exist: to ask MLflow would make an empty one."""
        path = Path(self.tracking_uri.removeprefix("sqlite:///"))
        return path if self.tracking_uri.startswith("sqlite:///") and not path.exists() else None

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
        lock = None
        if self.store is not None:
            from sweeps.study_lock import StudyLock

            lock = StudyLock(url=self.optuna_url, study=f"{self.store}/{name}")
        return StudyFolder(root=self.root / "studies" / name, lock=lock, depot=self.depot)

    def ensure(self) -> None:
        """Makes the folder and what belongs in it."""
        for folder in (self.root / "studies", self.root / "cache", self.artifacts):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def nearest(self) -> Path:
        """The nearest folder that exists: what is to be made would stand in it."""
        return next(path for path in (self.root, *self.root.parents) if path.exists())

    def check_writable(self) -> None:
        """Tries whether the folder can be written, or made, and leaves nothing behind.

        Raises:
            RefusedError: If it cannot.
        """
        try:
            tempfile.TemporaryFile(dir=self.nearest).close()
        except OSError as error:
            raise RefusedError(
                f"the home {self.root} cannot be written ({error.strerror}): choose another with --home or "
                f"{HOME_VARIABLE}"
            ) from None


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A process that drives a study.

    Attributes:
        host: The machine that it runs on, as it calls itself.
        pid: Its process there.
        since: When it took the study, in UTC.
    """

    host: str
    pid: int
    since: str

    @classmethod
    def this_process(cls) -> "Driver":
        return cls(host=platform.node(), pid=os.getpid(), since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}")

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == platform.node()

    def __str__(self) -> str:
        place = "" if self.is_here else f" on {self.host}"
        return f"process {self.pid}{place} since {self.since} UTC"


@dataclass(frozen=True, kw_only=True)
class StudyFolder:
    """The files of one study.

    Attributes:
        lock: Holds on all machines, where they do not share the folder.
        depot: Hands it on from one to another then.
    """

    root: Path
    lock: "StudyLock | None" = None
    depot: "Depot | None" = None

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def space(self) -> Path:
        """The resolved search space: all that `sweeps resume` needs."""
        return self.root / "space.yaml"

    @classmethod
    def is_space(cls, name: str) -> bool:
        """Whether a file of a study is its search space."""
        return name == cls(root=Path()).space.name

    @property
    def log(self) -> Path:
        """What Ray, MLflow and Optuna had to say."""
        return self.root / "sweep.log"

    @property
    def driver(self) -> Path:
        """Written by the driver that holds the lock."""
        return self.root / "driver.json"

    @property
    def trials(self) -> Path:
        """Holds what trials left, a folder each."""
        return self.root / "trials"

    @property
    def tune(self) -> Path:
        """What Ray notes of runs, for itself."""
        return self.root / "tune"

    def trial(self, number: int) -> Path:
        """The folder of one trial's checkpoints."""
        return self.trials / f"{number:04d}"

    @contextmanager
    def driven(self) -> Iterator[None]:
        """Holds this study for one driver. The lock falls with the process, however it ends.

        Across machines too, where the home's filesystem keeps locks for all of them, as NFS does unless it is
        mounted with `nolock` or `local_lock`; `sweeps doctor` tries it.

        Raises:
            RefusedError: If another driver holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as lock:
            if not _locked(lock):
                raise self._is_driven()
            with nullcontext(True) if self.lock is None else self.lock.held() as is_held:
                if not is_held:
                    raise self._is_driven()
                fresh = self.driver.with_suffix(".fresh")
                fresh.write_text(json.dumps(asdict(Driver.this_process())))
                os.replace(fresh, self.driver)
                try:
                    yield
                finally:
                    self.driver.unlink(missing_ok=True)

    def _is_driven(self) -> RefusedError:
        driver = self.read_driver()
        there = "" if driver is None or driver.is_here else "there "
        return RefusedError(
            f"study {self.name} is being driven by {driver or 'another process'}: stop it first "
            f"{there}with `sweeps stop {self.name}`"
        )

    def read_driver(self) -> Driver | None:
        """Who drives this study, on this machine or another; None when nobody does."""
        here = self._read_driver_here()
        return self.lock.read_driver() if here is None and self.lock is not None else here

    def _read_driver_here(self) -> Driver | None:
        try:
            with self._lock.open() as lock:
                # A shared lock: those who only look are not in each other's way. And NFS locks a file that is
                # open for reading in no other manner.
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except BlockingIOError:
            try:
                return Driver(**json.loads(self.driver.read_text()))
            except FileNotFoundError:  # it is just beginning, or ending
                return None

    def read_driver_pid(self) -> int | None:
        """The process that drives this study, on whichever machine; None when none does."""
        driver = self.read_driver()
        return None if driver is None else driver.pid

    @property
    def _lock(self) -> Path:
        return self.root / "driver.lock"


def masked(text: str) -> str:
    """A text that names an address, without the password or token in it."""
    text = re.sub(r"(://[^:/@\s]*:)\S*@", r"\1***@", text)
    text = re.sub(r"(://)[^:/@\s]+@", r"\1***@", text)
    return re.sub(r"\b(password|token|sslpassword)=[^&\s]*", r"\1=***", text, flags=re.IGNORECASE)


def _locked(lock: TextIO) -> bool:
    """Takes a lock for this process alone; False when another keeps it."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
