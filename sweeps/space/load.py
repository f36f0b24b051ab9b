"""From a file, and what the command line changes in it, to a search space that can be run."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from distill.errors import InputError
from sweeps.space.check import check
from sweeps.space.document import parse
from sweeps.space.model import SearchSpace
from sweeps.space.overrides import apply_override
from sweeps.space.problems import KeyPath, Problem, SpaceError, problems_of

PACKAGE = "search_spaces"
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
    text, file = _read(source)
    return parse_space(text, file=file, overrides=overrides)


def parse_space(text: str, *, file: str, overrides: Mapping[str, str] | None = None) -> SearchSpace:
    """Like `load_space`, for a file's content.

    Args:
        file: What messages call it.
    """
    document = parse(text, file=file)
    if document.problems and not document.data:
        raise SpaceError(document.sentences(document.problems))
    for name, value in (overrides or {}).items():
        apply_override(document, name, value)
    space, problems = _validate(document.data)
    unread = frozenset(_mapping(document.data.get("parameters"))) - space.parameters.keys()
    problems = [*document.problems, *problems, *check(space, unread=unread)]
    if problems:
        raise SpaceError(document.sentences(problems))
    base = _with_absolute_paths(space.base, space.config(space.first_point()))
    return space.model_copy(update={"base": base})


def _read(source: str) -> tuple[str, str]:
    """The content of a search-space file, and what to call it."""
    path, names = Path(source), packaged_names()
    is_path = path.suffix in (".yaml", ".yml") or len(path.parts) > 1
    if not is_path and source in names:
        file = f"{PACKAGE}/{source}.yaml"
        return (resources.files(PACKAGE) / f"{source}.yaml").read_text(encoding="utf-8"), file
    if not is_path and not path.exists():
        close = get_close_matches(source, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"no search space is called {source!r}: packaged are {', '.join(names)}{hint}")
    try:
        return path.read_text(encoding="utf-8"), source
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not a text file in UTF-8") from error


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
