"""Distillation losses, and the one place where they are named."""

from typing import Self

from pydantic import model_validator

from distill.errors import InputError
from distill.losses.base import DistillationLoss, LossContext, LossSettings, Need, WeightedLosses
from distill.losses.embedding import (
    CosineSettings,
    RawMSESettings,
    UnitMSESettings,
    cosine,
    raw_mse,
    unit_mse,
)
from distill.settings import Settings


class LossesSettings(Settings):
    """The losses that are summed, each with its weight. The field's name is the loss's name everywhere."""

    raw_mse: RawMSESettings | None = None
    """Squared error of raw embeddings."""
    unit_mse: UnitMSESettings | None = None
    """Squared error of unit embeddings."""
    cosine: CosineSettings | None = None
    """One minus the cosine similarity."""

    @model_validator(mode="after")
    def _something_is_minimised(self) -> Self:
        named = self.named()
        if named and not any(loss.weight > 0 for loss in named.values()):
            raise ValueError(f"a weight must be above 0, got 0 for every loss named: {', '.join(named)}")
        return self

    def named(self) -> dict[str, LossSettings]:
        """The losses that are set, by name, those of weight 0 among them."""
        return {name: loss for name, loss in self if loss is not None}

    def used(self) -> dict[str, LossSettings]:
        """The losses of a weight above 0, by name."""
        return {name: loss for name, loss in self.named().items() if loss.weight > 0}

    def build(self, context: LossContext) -> WeightedLosses:
        """Builds the losses of a weight above 0.

        Raises:
            InputError: If a loss cannot compare embeddings of these widths.
        """
        for name, loss in self.used().items():
            if loss.same_width and context.student_dim != context.teacher_dim:
                raise InputError(
                    f"losses.{name} needs embeddings as wide as the teacher's {context.teacher_dim}, "
                    f"the student's have {context.student_dim}"
                )
        return WeightedLosses(
            {name: loss.build(context) for name, loss in self.used().items()},
            weights={name: loss.weight for name, loss in self.used().items()},
        )


__all__ = [
    "CosineSettings",
    "DistillationLoss",
    "LossContext",
    "LossSettings",
    "LossesSettings",
    "Need",
    "RawMSESettings",
    "UnitMSESettings",
    "WeightedLosses",
    "cosine",
    "raw_mse",
    "unit_mse",
]
