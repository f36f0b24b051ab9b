"""MLflow's registry: which versions of a model there are, and which of them an alias points to.

A version is registered, described and tagged before any alias points to it: what an alias leads to is whole.
"""

import getpass
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from distill.checkpoint import CARD
from distill.errors import InputError, RefusedError
from sweeps.home import Home, masked
from sweeps.space.promotion import former_alias

# It tells at length that it waits for a version, which is there at once.
logging.getLogger("mlflow.store.model_registry.abstract_store").setLevel(logging.WARNING)

STATE, INCOMPLETE, COMPLETE = "state", "incomplete", "complete"
"""Tag of a version, and its values. It is incomplete until its promotion has ended."""
GATES = "gates"
"""Tag that holds what each gate said, as JSON."""
ABANDONED_S = 3600.0
"""A promotion that has not ended after this time was cut off: it takes a second after the version is made."""
_CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """One version of a model, as `sweeps models` shows it.

    Attributes:
        state: `complete`; `incomplete` where its promotion was cut off; empty where others registered it.
        registered_at: In seconds since 1970.
    """

    model: str
    version: str
    aliases: tuple[str, ...]
    state: str
    registered_at: float
    run_id: str | None
    tags: dict[str, str]

    @property
    def gates(self) -> list[dict[str, Any]]:
        """What each gate said of it."""
        return json.loads(self.tags.get(GATES, "[]"))

    def document(self) -> dict[str, Any]:
        """As plain types, for `--json`."""
        return {
            "model": self.model,
            "version": self.version,
            "aliases": list(self.aliases),
            "state": self.state,
            "registered_at": self.registered_at,
            "run_id": self.run_id,
            "gates": self.gates,
            "tags": {name: value for name, value in self.tags.items() if name not in (GATES, STATE)},
        }


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """An alias that was moved to another version."""

    model: str
    alias: str
    left: str
    reached: str

    def __str__(self) -> str:
        return (
            f"models:/{self.model}@{self.alias} is version {self.reached} again, it was version {self.left}"
        )


class Registry:
    """The registry of one tracking server or database. Its calls raise RefusedError where it refuses."""

    def __init__(self, uri: str):
        self.uri = uri

    @classmethod
    def of(cls, home: Home) -> "Registry":
        """The registry that a home records in.

        Raises:
            InputError: If there is none yet.
        """
        if (database := home.missing_database) is not None:
            raise InputError(f"nothing is registered yet, since there is no database {database}")
        return cls(home.tracking_uri)

    @classmethod
    def on_server(cls, uri: str) -> "Registry":
        """The registry of another tracking server, which answers.

        Raises:
            InputError: If it is not the address of a server.
            RefusedError: If nothing answers there, or it lets nobody in.
        """
        address = urlsplit(uri)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise InputError(
                f"--to must be the address of an MLflow server, like https://HOST, got {masked(uri)!r}"
            )
        port = address.port or (443 if address.scheme == "https" else 80)
        try:  # MLflow itself would try for minutes
            socket.create_connection((address.hostname, port), timeout=_CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise RefusedError(f"no MLflow server answers at {masked(uri)} ({error})") from error
        registry = cls(uri)
        with registry.asking():
            registry.client.search_registered_models(max_results=1)
        return registry

    @cached_property
    def client(self) -> MlflowClient:
        """Speaks to it, and to the tracking server beside it."""
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Says in one sentence why it refused, whatever MLflow raises.

        Raises:
            RefusedError: In the place of MLflow's own error.
        """
        try:
            yield
        except MlflowException as error:
            raise RefusedError(masked(_refusal(self.uri, str(error)))) from error

    def aliases(self, model: str) -> dict[str, str]:
        """Versions by the aliases that point to them; none where there is no such model."""
        with self.asking():
            try:
                found = self.client.get_registered_model(model).aliases
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return {}
                raise
        return {alias: str(version) for alias, version in found.items()}

    def versions(self, model: str | None = None) -> list[RegisteredVersion]:
        """Every version of a model, or of all of them, by name and then the newest first.

        Raises:
            InputError: If there is no such model.
        """
        with self.asking():
            models = {found.name: found.aliases for found in _every(self.client.search_registered_models)}
            if model is not None and model not in models:
                known = ", ".join(sorted(models)) or "none yet"
                raise InputError(f"no model {model!r} is registered at {masked(self.uri)}: it has {known}")
            names = sorted(models) if model is None else [model]
            return [
                _registered(found, models[name])
                for name in names
                for found in sorted(self._versions(name), key=lambda found: -int(found.version))
            ]

    def fetch(self, uri: str, *, into: Path | None = None) -> Path:
        """Fetches a registered student.

        Args:
            uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
            into: A folder for the copy; by default one that MLflow makes.

        Returns:
            The student's folder.

        Raises:
            InputError: If nothing is registered there, or it is no student.
        """
        mlflow.set_tracking_uri(self.uri)  # what resolves `models:/` asks for no other
        try:
            folder = Path(download_artifacts(uri, dst_path=None if into is None else str(into)))
            data = Model.load(folder).flavors["python_function"]["data"]
        except (MlflowException, OSError, KeyError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(masked(f"there is no student at {uri} in {self.uri} ({reason})")) from error
        if not (folder / data / CARD).is_file():
            raise InputError(f"{uri} in {masked(self.uri)} is no student: it has no {CARD}")
        return folder / data

    def move(self, model: str, alias: str, version: str) -> None:
        """Points an alias to a whole version, and the alias of former ones to the one that it leaves.

        The former one comes first: cut off between the two, the alias leads where it led.
        """
        former = self.aliases(model).get(alias)
        with self.asking():
            if former not in (None, version):
                self.client.set_registered_model_alias(model, former_alias(alias), former)
            self.client.set_registered_model_alias(model, alias, version)

    def roll_back(self, model: str, *, alias: str, to: str | None = None, why: str = "") -> Rollback:
        """Points an alias back to the version that it pointed to before, and swaps the two.

        Args:
            to: Another version than the former one.
            why: A reason, kept with the version that is left.

        Raises:
            InputError: If there is no such model, alias or version.
            RefusedError: If there is nothing to go back to, or that version is not whole.
        """
        versions = {found.version: found for found in self.versions(model)}
        pointed = self.aliases(model)
        if (left := pointed.get(alias)) is None:
            raise InputError(f"model {model} has no alias {alias!r}: it has {', '.join(pointed) or 'none'}")
        reached = to or pointed.get(former_alias(alias))
        if reached is None or reached == left:
            raise RefusedError(
                f"models:/{model}@{alias} is version {left}, and there is no former one to go back to: "
                "name a version with --to"
            )
        if reached not in versions:
            raise InputError(f"model {model} has no version {reached}: it has {', '.join(versions)}")
        if versions[reached].state == INCOMPLETE:
            raise RefusedError(f"version {reached} of {model} is incomplete: its promotion was cut off")
        self.move(model, alias, reached)
        said = f"to version {reached} by {who()} at {utc(time.time())}{f': {why}' if why else ''}"
        with self.asking():
            self.client.set_model_version_tag(model, left, "rolled_back", said)
        return Rollback(model=model, alias=alias, left=left, reached=reached)

    def clear_up(self, model: str) -> None:
        """Ends what promotions that were cut off have left of a model.

        A version that nothing points to goes; one that has its alias only lacks the word that it is complete.
        """
        for found in self.versions(model) if self.aliases(model) else ():
            if found.tags.get(STATE) != INCOMPLETE:
                continue
            with self.asking():
                if found.aliases:
                    self.client.set_model_version_tag(model, found.version, STATE, COMPLETE)
                elif time.time() - found.registered_at > ABANDONED_S:
                    self.client.delete_model_version(model, found.version)

    def _versions(self, model: str) -> list[ModelVersion]:
        quote = '"' if "'" in model else "'"
        return _every(self.client.search_model_versions, filter_string=f"name={quote}{model}{quote}")


def fetch_student(uri: str) -> Path:
    """Fetches a registered student, from the tracker of the environment or else of the home.

    Returns:
        Its folder, a copy.

    Raises:
        InputError: If nothing is registered there, or it is no student.
    """
    try:
        registry = Registry.of(Home.at())
    except InputError as error:
        raise InputError(f"there is no student at {uri}: {error}") from None
    return registry.fetch(uri)


def who() -> str:
    """The person at the keyboard, and the host."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def utc(seconds: float) -> str:
    """A time as people and programs read it: `2026-01-31T12:00:00Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _registered(found: ModelVersion, aliases: dict[str, str]) -> RegisteredVersion:
    pointing = tuple(
        sorted(alias for alias, version in aliases.items() if str(version) == str(found.version))
    )
    state = found.tags.get(STATE, "")
    return RegisteredVersion(
        model=found.name,
        version=str(found.version),
        aliases=pointing,
        state=COMPLETE if pointing and state else state,
        registered_at=found.creation_timestamp / 1000,
        run_id=found.run_id or None,
        tags=dict(found.tags),
    )


def _every(search: Any, **asked: Any) -> list[Any]:
    """All pages of what a search finds."""
    found: list[Any] = []
    token = None
    while True:
        page = search(**asked, page_token=token)
        found += page
        if not (token := page.token):
            return found


def _refusal(uri: str, reason: str) -> str:
    first = (reason.strip().splitlines() or ["no reason"])[0]
    hint = ""
    if "401" in first or "not authenticated" in reason:
        hint = ": set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    elif "Host header" in reason:
        hint = ": start it with --allowed-hosts and the name that it is reached by"
    elif "403" in first:
        hint = ": this user may not write there"
    return f"MLflow at {uri} refuses ({first}){hint}"
