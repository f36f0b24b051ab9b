"""What `--set` changes in a search-space file."""

from typing import Any

from distill.config import TrialConfig
from sweeps.space.document import Document, parse_value
from sweeps.space.model import SearchSpace
from sweeps.space.problems import KeyPath, Problem, nearest


def apply_override(document: Document, name: str, text: str) -> None:
    """Replaces a value of the document. What is wrong with the request is noted as a problem of its own.

    Args:
        name: A key of the file, or a setting of a trial, which is then fixed and no longer searched.
        text: The value, in YAML.
    """
    place, head = f"--set {name}={text}", name.partition(".")[0]
    known = [*SearchSpace.model_fields, *TrialConfig.model_fields]
    try:
        value = parse_value(text)
        if head not in known:
            raise ValueError(f"is not a known key; {nearest(head, known)}")
    except ValueError as error:
        document.places[(name,)] = place
        document.problems.append(Problem((name,), str(error)))
        return
    if head in TrialConfig.model_fields or name.startswith("base."):
        _fix(document, name.removeprefix("base."), value, place)
    else:
        _replace(document, _path_in_file(document, name), value, place)


def _path_in_file(document: Document, name: str) -> KeyPath:
    """The keys of a dotted name, of which those of parameters hold dots themselves."""
    head, _, rest = name.partition(".")
    parameters = document.data.get("parameters")
    if head != "parameters" or not rest or not isinstance(parameters, dict):
        return tuple(name.split("."))
    searched = max((key for key in parameters if f"{rest}.".startswith(f"{key}.")), key=len, default=rest)
    inner = rest.removeprefix(searched).removeprefix(".")
    return (head, searched, *(inner.split(".") if inner else ()))


def _replace(document: Document, path: KeyPath, value: Any, place: str) -> None:
    mapping = document.data
    for key in path[:-1]:
        if not isinstance(mapping.get(str(key)), dict):
            mapping[str(key)] = {}
        mapping = mapping[str(key)]
    mapping[str(path[-1])] = value
    document.places = {p: where for p, where in document.places.items() if p[: len(path)] != path}
    document.places[path] = place


def _fix(document: Document, name: str, value: Any, place: str) -> None:
    """Gives all trials one value, and searches neither for it nor for what then exists in no trial."""
    _replace(document, ("base", *name.split(".")), value, place)
    parameters = document.data.get("parameters")
    if not isinstance(parameters, dict):
        return
    gone = {key for key in parameters if f"{key}.".startswith(f"{name}.")}
    for key, parameter in parameters.items():
        when = parameter.get("when") if isinstance(parameter, dict) else None
        conditions = when.items() if isinstance(when, dict) else ()
        if any(
            other in gone and not _allows(allowed, _fixed(document, other)) for other, allowed in conditions
        ):
            gone.add(key)
    document.data["parameters"] = {key: parameter for key, parameter in parameters.items() if key not in gone}
    _leave_out_of_first_points(document, gone)


def _leave_out_of_first_points(document: Document, names: set[str]) -> None:
    """What is fixed for all trials is no part of a point that is tried first."""
    search = document.data.get("search")
    if isinstance(search, dict) and isinstance(points := search.get("enqueue"), list):
        search["enqueue"] = [
            {name: value for name, value in point.items() if name not in names}
            if isinstance(point, dict)
            else point
            for point in points
        ]


def _allows(allowed: Any, value: Any) -> bool:
    return value in (allowed if isinstance(allowed, list) else [allowed])


def _fixed(document: Document, name: str) -> Any:
    value: Any = document.data.get("base")
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
