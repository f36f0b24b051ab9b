"""What a search-space file takes over from the one that it extends."""

from collections.abc import Iterator
from typing import Any

from sweeps.space.document import Document
from sweeps.space.problems import KeyPath, Problem, nearest

_PARAMETERS = "parameters"


def inherit(document: Document, inherited: Document) -> None:
    """Adds to a document what it does not say itself. Every value keeps the place where it stands.

    Mappings are merged key by key; all else, and each parameter as a whole, is the document's own where it
    says anything. What it says is null is left out.
    """
    _refuse_idle_nulls(document, inherited)
    kept: list[KeyPath] = []
    document.data = _merged(document.data, inherited.data, (), kept)
    for path, place in inherited.places.items():
        if any(path[: len(head)] == head for head in kept):
            document.places[path] = place
    if isinstance(parameters := document.data.get(_PARAMETERS), dict):
        document.data[_PARAMETERS] = _ordered(parameters)


def _refuse_idle_nulls(document: Document, inherited: Document) -> None:
    """A parameter that is dropped must be there: elsewhere null may be a value."""
    own, others = (_mapping(d.data.get(_PARAMETERS)) for d in (document, inherited))
    for name in [name for name, parameter in own.items() if parameter is None and name not in others]:
        claim = f"is null, which drops what is inherited, but no such parameter is; {nearest(name, others)}"
        document.problems.append(Problem((_PARAMETERS, name), claim))
        del own[name]


def _merged(
    own: dict[str, Any], inherited: dict[str, Any], path: KeyPath, kept: list[KeyPath]
) -> dict[str, Any]:
    """Both mappings in one. Notes in `kept` which keys are the inherited one's alone."""
    merged: dict[str, Any] = {}
    for key, value in inherited.items():
        if key not in own:
            merged[key] = value
            kept.append((*path, key))
        elif isinstance(own[key], dict) and isinstance(value, dict) and path != (_PARAMETERS,):
            merged[key] = _merged(own[key], value, (*path, key), kept)
        elif own[key] is not None:
            merged[key] = own[key]
    return merged | {key: value for key, value in own.items() if key not in inherited}


def _ordered(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters in their order, but each after those that it depends on.

    A file cannot put one of its own before an inherited one that it redefines.
    """
    ordered: dict[str, Any] = {}

    def place(name: str, waiting: tuple[str, ...]) -> None:
        if name in ordered or name in waiting:
            return
        for other in _needed(parameters[name]):
            if other in parameters:
                place(other, (*waiting, name))
        ordered[name] = parameters[name]

    for name in parameters:
        place(name, ())
    return ordered


def _needed(parameter: Any) -> Iterator[str]:
    parameter = _mapping(parameter)
    yield from _mapping(parameter.get("when"))
    if isinstance(other := parameter.get("ratio_of"), str):
        yield other


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
