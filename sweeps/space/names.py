"""Which dotted names are settings of a trial, given what is known of its student, method and faces."""

from collections.abc import Callable, Collection
from typing import Any

from pydantic import BaseModel

from sweeps.space.problems import nearest
from sweeps.space.schema import models_of, tags_of

Pinned = Callable[[str], "Collection[Any] | None"]
"""The values that a dotted name may take; None when nothing says."""


def claim_against(name: str, model: type[BaseModel], pinned: Pinned) -> str | None:
    """What is wrong with a dotted name as that of one setting of `model`; None when nothing is.

    Where several kinds of student (or method, or faces) are possible, all of them must have the setting.

    Args:
        pinned: Tells which kinds are possible, by the name of what chooses them, e.g. `student.name`.
    """
    keys = name.split(".")
    models, possible, chooser, tag = [model], [model], "", None
    for depth, key in enumerate(keys):
        having = [m for m in models if key in m.model_fields]
        if not having:
            prefix = ".".join([*keys[:depth], ""])
            known = dict.fromkeys(prefix + field for m in models for field in m.model_fields)
            return f"is not a setting of a trial; {nearest(prefix + key, known)}"
        if tag and any(m not in having for m in possible):
            fitting = [str(kind) for m in having if m in possible for kind in tags_of(m, tag)]
            if fitting:
                kinds = ", ".join(fitting)
                return f"exists only where {chooser} is {kinds}: add when: {{{chooser}: [{kinds}]}}"
            kinds = " or ".join(str(kind) for m in having for kind in tags_of(m, tag))
            return f"exists only where {chooser} is {kinds}, which it never is here"
        fields = [m.model_fields[key] for m in having]
        models = possible = [inner for field in fields for inner in models_of(field.annotation)]
        tag = next((field.discriminator for field in fields if isinstance(field.discriminator, str)), None)
        chooser = ".".join([*keys[: depth + 1], tag or ""])
        if tag is None or name == chooser or depth == len(keys) - 1:
            continue
        kinds = pinned(chooser)
        if kinds is None:
            return f"needs {chooser} in base or among the parameters, since it decides which settings exist"
        possible = [m for m in models if any(kind in tags_of(m, tag) for kind in kinds)]
    if models:
        fields = dict.fromkeys(field for m in models for field in m.model_fields)
        return f"is a group of settings: search one of them ({', '.join(fields)})"
    return None
