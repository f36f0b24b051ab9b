"""How every group of settings behaves: frozen, strict, documented field by field."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict

LocalPath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
"""A file or folder of the user's, from where he named it: a cluster's workers run elsewhere."""


class Settings(BaseModel):
    """A frozen group of settings. Unknown names are errors, never ignored."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


def override(settings: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of nested `settings` with dotted names replaced, e.g. `{"optimizer.lr": 0.1}`."""
    merged = dict(settings)
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        if not dot:
            merged[head] = value
            continue
        inner = merged.get(head)
        merged[head] = override(inner if isinstance(inner, dict) else {}, {rest: value})
    return merged
