"""From a file, and what the command line changes in it, to a search space that can be run."""

import json
import os
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from distill.errors import InputError
from sweeps.space.check import check
from sweeps.space.document import Document, dump, parse
from sweeps.space.inheritance import inherit
from sweeps.space.model import SearchSpace
from sweeps.space.overrides import apply_override
from sweeps.space.problems import REFUSED, KeyPath, Problem, SpaceError, problems_of, shown

PACKAGE = "search_spaces"
EXTENDS = "extends"
_STAND_INS: dict[str, Any] = {
    "name": "unnamed",
    "objectives": [{"metric": "validation/verification_accuracy", "direction": "maximize"}],
    "search": {"num_trials": 1},
}
"""What the checks see in place of required parts that could not be read."""


def packaged_names() -> list[str]:
    """The search spaces that come with the package."""
    files = resources.files(PACKAGE).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_space(source: str, *, overrides: Mapping[str, str] | None = None) -> SearchSpace:
    """Reads a search space and checks all of it.

    Args:
        source: A file's path, or the name of a packaged space: `quickstart`.
        overrides: Values in YAML by dotted name. Names of the file (`search.num_trials`) replace what
            stands there. A setting of a trial (`optimizer.lr`, with or without `base.` before it) is fixed
            for all trials and no longer searched; nor are parameters whose conditions then never hold.

    Raises:
        SpaceError: If anything is wrong, with one sentence for everything that is.
        InputError: If there is no such file or packaged space.
    """
    found = _find(source, folder=Path())
    return _checked(_text(found), found, overrides or {})


def merged(source: str, *, overrides: Mapping[str, str] | None = None) -> str:
    """A search space's YAML with what it extends and what the command line changes in it, unchecked.

    Args:
        source, overrides: As `load_space` takes them.

    Raises:
        InputError: If there is no such file or packaged space.
    """
    found = _find(source, folder=Path())
    document = _document(_text(found), found, before=())
    for name, value in (overrides or {}).items():
        apply_override(document, name, value)
    return dump(document.data)


def parse_space(text: str, *, file: str, overrides: Mapping[str, str] | None = None) -> SearchSpace:
    """Like `load_space`, for a file's content.

    Args:
        file: What messages call it. What it extends is looked for beside it.
    """
    return _checked(text, _Source(Path(file), file), overrides or {})


class _Source(NamedTuple):
    """A file, and what messages call it."""

    path: Path
    file: str


def _checked(text: str, source: _Source, overrides: Mapping[str, str]) -> SearchSpace:
    document = _document(text, source, before=())
    if document.is_unreadable:
        raise SpaceError([*document.inherited, *document.sentences(document.problems)])
    for name, value in overrides.items():
        apply_override(document, name, value)
    space, problems = _validate(document.data)
    unread = frozenset(_mapping(document.data.get("parameters"))) - space.parameters.keys()
    unsure = frozenset(str(path[0]) for path, _ in problems if path)
    problems = [*document.problems, *problems, *check(space, unread=unread, unsure=unsure)]
    if document.inherited or problems:
        raise SpaceError([*document.inherited, *document.sentences(problems)])
    base = _with_absolute_paths(space.base, space.config(space.first_point()))
    return space.model_copy(update={"base": base})


def _document(text: str, source: _Source, *, before: tuple[Path, ...]) -> Document:
    """A file with what it inherits.

    Args:
        before: The files that led here, each of which extends the next.
    """
    document = parse(text, file=source.file)
    for key in get_close_matches(EXTENDS, document.data.keys() - {EXTENDS, *SearchSpace.model_fields}, n=1):
        document.problems.append(Problem((key,), f"is not a known key; did you mean {EXTENDS}?"))
        document.data = {}  # without what it was to inherit, much would seem to be missing
    extended = document.data.pop(EXTENDS, None)
    if extended is None:
        return document
    try:
        if not isinstance(extended, str):
            raise InputError(f"it must be a file's path or a packaged space's name, got {shown(extended)}")
        other, chain = _find(extended, folder=source.path.parent), (*before, source.path.resolve())
        if other.path.resolve() in chain:
            raise InputError(f"it leads back to {other.file}")
        inherited = _document(_text(other), other, before=chain)
    except InputError as error:
        document.problems.append(Problem((EXTENDS,), f"{REFUSED}{error}"))
        document.data = {}
        return document
    document.inherited = [*inherited.inherited, *inherited.sentences(inherited.problems)]
    if inherited.is_unreadable:
        document.data = {}
    else:
        inherit(document, inherited)
    return document


def _find(source: str, *, folder: Path) -> _Source:
    """The search-space file that a user names: by its path, from a folder, or as a packaged space."""
    path, names = Path(source), packaged_names()
    is_path = path.suffix in (".yaml", ".yml") or len(path.parts) > 1
    if not is_path and source in names:
        return _Source(Path(str(resources.files(PACKAGE) / f"{source}.yaml")), f"{PACKAGE}/{source}.yaml")
    if not is_path and not (folder / path).exists():
        close = get_close_matches(source, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"no search space is called {source!r}: packaged are {', '.join(names)}{hint}")
    return _Source(folder / path, os.path.normpath(folder / path))


def _text(source: _Source) -> str:
    try:
        return source.path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{source.file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source.file} is not a text file in UTF-8") from error


def _validate(data: dict[str, Any]) -> tuple[SearchSpace, list[Problem]]:
    """The space, and what is wrong with its parts; these are left out, so that the others can be checked."""
    try:
        return SearchSpace.model_validate_json(json.dumps(data), strict=True), []
    except ValidationError as error:
        problems = problems_of(error, data, SearchSpace)
    for path, _ in problems:
        data = _without(data, path)
    space, _ = _validate({**_STAND_INS, **data})
    return space, problems


def _without(data: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    """Leaves out what a path leads to, or the closest mapping's key above it that there is.

    A parameter goes as a whole: without its conditions, say, it would be another.
    """
    head, *rest = path
    inner = data.get(str(head))
    if rest and isinstance(inner, dict) and rest[0] in inner:
        return {**data, str(head): _without(inner, (rest[0],) if head == "parameters" else tuple(rest))}
    return {key: value for key, value in data.items() if key != head}


def _with_absolute_paths(settings: Any, validated: Any) -> Any:
    """Settings as they stand, but with the paths that they were found to name: a study goes on anywhere."""
    match settings, validated:
        case _, Path():
            return str(validated)
        case dict(), BaseModel():
            return {
                key: _with_absolute_paths(value, getattr(validated, key, None))
                for key, value in settings.items()
            }
        case list(), tuple() | list():
            return [_with_absolute_paths(*both) for both in zip(settings, validated, strict=True)]
    return settings


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
