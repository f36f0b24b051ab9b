"""Where Optuna keeps studies: the home's own SQLite file, a database server, or a journal on a shared disk.

Only the driver speaks to it. The journal is Optuna's log of operations in one file, which several machines
may append to where they mount it.
"""

import functools
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from distill.errors import InputError, RefusedError
from sweeps.checks import Check
from sweeps.home import Home, masked

SQLITE, JOURNAL = "sqlite:///", "journal://"
ALLOWED = "sqlite:///FILE, postgresql+psycopg://USER:PASSWORD@HOST/DATABASE or journal:///FILE"


def open_storage(home: Home) -> BaseStorage:
    """Opens the storage of all studies, making it on first use. A process opens each but once.

    Raises:
        InputError: If its address is not one, or names a database whose driver is not installed.
        RefusedError: If it does not answer.
    """
    return _open(home.optuna_url)


def recorded_names(home: Home) -> list[str]:
    """Every study that the storage holds, oldest first: this home's, and those of homes that share it.

    Raises:
        InputError: As `open_storage`.
        RefusedError: As `open_storage`.
    """
    if (file := _file(home.optuna_url)) is not None and not file.exists():
        return []
    summaries = optuna.get_all_study_summaries(open_storage(home), include_best_trial=False)
    return [summary.study_name for summary in sorted(summaries, key=lambda summary: summary._study_id)]


def study_names(home: Home) -> list[str]:
    """Every study of this home, oldest first.

    Raises:
        InputError: As `open_storage`.
        RefusedError: As `open_storage`.
    """
    own = {path.parent.name for path in (home.root / "studies").glob("*/space.yaml")}
    return [name for name in recorded_names(home) if name in own]


def check_storage(home: Home) -> Check:
    """Whether Optuna's storage answers. Nothing is made where it is a file."""
    try:
        recorded_names(home)
    except (InputError, RefusedError) as error:
        return Check(name="storage", ok=False, finding=str(error))
    return Check(name="storage", ok=True, finding=f"studies are kept in {masked(home.optuna_url)}")


def _file(url: str) -> Path | None:
    """The file that a storage is; None when it is a server."""
    for scheme in (SQLITE, JOURNAL):
        if url.startswith(scheme):
            return Path(url.removeprefix(scheme))
    return None


@functools.cache
def _open(url: str) -> BaseStorage:
    if url.startswith(JOURNAL):
        return _open_journal(url)
    try:
        database = make_url(url).get_backend_name()
    except ArgumentError:
        raise InputError(f"--storage must be {ALLOWED}, got {masked(url)}") from None
    # Several readers (status, dashboard) look on while a driver writes a file: they wait for it. A server may
    # have been started again since: each connection is tried before it is used.
    connect = {"sqlite": {"timeout": 30}, "postgresql": {"connect_timeout": 10}}.get(database, {})
    try:
        is_server = database != "sqlite"
        return RDBStorage(url, engine_kwargs={"connect_args": connect, "pool_pre_ping": is_server})
    except (ImportError, NoSuchModuleError):
        raise InputError(
            f"--storage {masked(url)} needs a driver that is not installed: "
            "pip install 'face-distillation-sweeps[postgresql]', and name it postgresql+psycopg://"
        ) from None
    except SQLAlchemyError as error:
        reason = masked(str(getattr(error, "orig", None) or error).strip().splitlines()[0])
        raise RefusedError(f"Optuna's storage {masked(url)} does not answer: {reason}") from None


def _open_journal(url: str) -> JournalStorage:
    path = Path(url.removeprefix(JOURNAL))
    if not path.is_absolute():
        raise InputError(f"--storage must name a journal by its absolute path, journal:///FILE, got {url}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise RefusedError(f"Optuna's journal {path} cannot be written: {error.strerror}") from None
