"""Walking nested pydantic models by key: which keys stand where, and which members of a union have them."""

from collections.abc import Iterable, Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel


def known_keys(model: type[BaseModel], data: Any, path: Sequence[str | int]) -> list[str]:
    """The keys that a mapping inside `data` may have; of a union's members, those that it can be.

    Args:
        data: What is to be a `model`.
        path: Where in it the mapping is.
    """
    annotations = _annotations_at(model, data, path)
    for key in path:
        data = data[key]
    fields = (
        field for annotation in annotations for m in _named(annotation, data) for field in m.model_fields
    )
    return list(dict.fromkeys(fields))


def scalars_at(model: type[BaseModel], data: Any, path: Sequence[str | int]) -> set[type]:
    """The plain types that a value inside `data` may have, see `known_keys`."""
    return {kind for annotation in _annotations_at(model, data, path) for kind in _scalars(annotation)}


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return models_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [model for member in get_args(annotation) for model in models_of(member)]
    return []


def tags_of(model: type[BaseModel], key: str) -> tuple[Any, ...]:
    """The values that a Literal field allows; nothing for other fields."""
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _annotations_at(model: type[BaseModel], data: Any, path: Sequence[str | int]) -> list[Any]:
    annotations: list[Any] = [model]
    for key in path:
        annotations = [child for annotation in annotations for child in _children(annotation, data, key)]
        data = data[key]
    return annotations


def _scalars(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    elif get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    elif get_origin(annotation) is Annotated:
        yield from _scalars(get_args(annotation)[0])
    else:
        yield from (kind for member in get_args(annotation) for kind in _scalars(member))


def _children(annotation: Any, data: Any, key: str | int) -> Iterable[Any]:
    if models := _named(annotation, data):
        return [m.model_fields[str(key)].annotation for m in models if key in m.model_fields]
    arguments = get_args(annotation)
    return [arguments[-1] if get_origin(annotation) is dict else arguments[0]] if arguments else []


def _named(annotation: Any, data: Any) -> list[type[BaseModel]]:
    """The models of an annotation that the literals in `data` do not rule out."""
    models = models_of(annotation)
    if not isinstance(data, dict):
        return models
    fitting = [m for m in models if all(data[key] in (tags_of(m, key) or [data[key]]) for key in data)]
    return fitting or models
