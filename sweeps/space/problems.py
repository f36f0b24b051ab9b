"""What is wrong with a search space, one sentence each, said where the user can find it."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distill.errors import InputError
from sweeps.space.schema import known_keys

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the top of a file to a value."""

_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
REFUSED = "is refused: "
"""Begins the claim about a group of settings that do not fit together."""
_MAX_LISTED = 12
_MAX_SHOWN = 60


class SpaceError(InputError):
    """A search space is wrong.

    Attributes:
        problems: Everything that is wrong with it, one sentence each.
    """

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class Problem(NamedTuple):
    """One thing that is wrong."""

    path: KeyPath
    claim: str
    """What follows the path in a sentence: `must be above 0, got -1`."""

    @property
    def sentence(self) -> str:
        """Path and claim; of the file as a whole, the claim."""
        return f"{dotted(self.path)} {self.claim}" if self.path else self.claim


def nearest(name: str, allowed: Collection[str]) -> str:
    """Half a sentence that helps with an unknown name: the nearest allowed one, or all of them."""
    if close := get_close_matches(name, allowed, n=1):
        return f"did you mean {close[0]}?"
    listed = list(allowed)[:_MAX_LISTED]
    more = len(allowed) - len(listed)
    return f"allowed: {', '.join(listed)}" + (f" and {more} more" if more else "")


def shown(value: Any) -> str:
    """A value as the user would write it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def dotted(path: KeyPath) -> str:
    """A path as one writes it: `promotion.gates[0].metric`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def problems_of(error: ValidationError, data: Any, model: type[BaseModel]) -> list[Problem]:
    """Says pydantic's errors in our words. What a value's alternatives each refuse becomes one problem.

    Args:
        data: What was validated.
        model: What it was validated as.
    """
    by_path: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_path.setdefault(key_path(details["loc"], data), []).append(details)
    for path in [path for path, alike in by_path.items() if alike[0]["type"] == "too_short"]:
        if any(len(inner) > len(path) and inner[: len(path)] == path for inner in by_path):
            del by_path[path]  # it counts as empty because its items are wrong
    return [
        problem
        for path, alike in by_path.items()
        for problem in _problems(path, alike, data=data, model=model)
    ]


def key_path(loc: Sequence[str | int], data: Any) -> KeyPath:
    """The keys of `data` that an error's location names, without the union members that pydantic adds."""
    path: list[str | int] = []
    for index, key in enumerate(loc):
        if isinstance(data, Mapping) and (key in data or index == len(loc) - 1):
            data = data.get(key)
        elif isinstance(data, list | tuple) and isinstance(key, int):
            data = data[key]
        else:
            continue
        path.append(key)
    return tuple(path)


def _problems(
    path: KeyPath, alike: list[ErrorDetails], *, data: Any, model: type[BaseModel]
) -> Iterator[Problem]:
    if all(details["type"] in _KINDS or details["type"] == "literal_error" for details in alike):
        kinds = dict.fromkeys(_kind(details) for details in alike)
        got = alike[0]["input"]
        yield Problem(path, f"must be {' or '.join(kinds)}, got {shown(got)}{_hint(alike[0])}")
        return
    for details in alike:
        match details["type"], details.get("ctx", {}):
            case "extra_forbidden", _:
                allowed = known_keys(model, data, path[:-1])
                yield Problem(path, f"is not a known key; {nearest(str(path[-1]), allowed)}")
            case "missing", _:
                yield Problem(path, "is missing")
            case "union_tag_not_found", {"discriminator": key}:
                yield Problem((*path, key.strip("'")), "is missing")
            case "union_tag_invalid", {"discriminator": key, "tag": tag, "expected_tags": tags}:
                claim = f"must be one of {', '.join(_quoted(tags))}, got {tag!r}{_closest(tag, tags)}"
                yield Problem((*path, key.strip("'")), claim)
            case "too_short", _:
                yield Problem(path, "must not be empty")
            case "value_error", {"error": cause}:
                of_a_group = isinstance(details["input"], dict) and not str(cause).startswith("must")
                yield Problem(path, f"{REFUSED if of_a_group else ''}{cause}")
            case _:
                claim = details["msg"].replace("Input should", "must", 1)
                yield Problem(path, f"{claim}, got {shown(details['input'])}")


def _kind(details: ErrorDetails) -> str:
    """What a value should have been."""
    if details["type"] in _KINDS:
        return _KINDS[details["type"]]
    expected = details.get("ctx", {})["expected"]
    names = _quoted(expected)
    return f"one of {', '.join(names)}" if len(names) > 1 else expected


def _hint(details: ErrorDetails) -> str:
    return _closest(details["input"], str(details.get("ctx", {}).get("expected", "")))


def _closest(value: Any, expected: str) -> str:
    close = get_close_matches(str(value), _quoted(expected), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _quoted(expected: str) -> list[str]:
    """The names in pydantic's `'tpe', 'random' or 'grid'`."""
    return re.findall(r"'([^']*)'", expected)
