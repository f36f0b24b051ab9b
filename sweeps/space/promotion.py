"""What becomes of the best student: where it is registered, and which gates it must pass."""

import re

from pydantic import field_validator

from distill.settings import Settings
from sweeps.space.settings import Bound

_ALIAS = re.compile(r"[A-Za-z0-9_-]+")


class PromotionSettings(Settings):
    """What becomes of the best student."""

    model: str
    """Name in the model registry."""
    alias: str = "champion"
    """What points to the version that production loads."""
    gates: tuple[Bound, ...] = ()
    """Limits that the candidate must keep. Benchmark metrics are measured when it is promoted, not before."""
    automatic: bool = False
    """Whether a sweep promotes its best student, if the gates let it, when it ends."""

    @field_validator("model")
    @classmethod
    def _model_is_a_registry_name(cls, model: str) -> str:
        if not model.strip() or set(model) & set("/:") or model.strip(".") == "":
            raise ValueError(f"must be a name without / and :, got {model!r}")
        return model

    @field_validator("alias")
    @classmethod
    def _alias_is_free(cls, alias: str) -> str:
        if not _ALIAS.fullmatch(alias) or alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
            raise ValueError(
                f"must be of letters, digits, - and _, but not latest or a version like v1, got {alias!r}"
            )
        return alias
