"""Distillation losses, and the one place where they are named."""

from typing import Literal, Self, get_args

from pydantic import model_validator

from distill.errors import InputError
from distill.losses.adadistill import AdaDistillSettings
from distill.losses.askd import ASKDSettings
from distill.losses.base import DistillationLoss, LossContext, LossSettings, Need, WeightedLosses
from distill.losses.cckd import CCKDSettings
from distill.losses.darkrank import DarkRankSettings
from distill.losses.ekd import EKDSettings
from distill.losses.embedding import (
    CosineSettings,
    RawMSESettings,
    UnitMSESettings,
    cosine,
    raw_mse,
    unit_mse,
)
from distill.losses.fitnet import FitNetSettings
from distill.losses.fskd import FSKDSettings
from distill.losses.gkd import GKDSettings
from distill.losses.hinton_kl import HintonKLSettings
from distill.losses.margin_distillation import MarginDistillationSettings
from distill.losses.proxyless import ProxylessSettings
from distill.losses.rkd import RKDSettings
from distill.losses.similarity_preserving import SimilarityPreservingSettings
from distill.losses.triplet_distillation import TripletDistillationSettings
from distill.settings import Settings

LossName = Literal[
    "raw_mse",
    "unit_mse",
    "cosine",
    "fitnet",
    "hinton_kl",
    "gkd",
    "rkd",
    "cckd",
    "similarity_preserving",
    "darkrank",
    "triplet_distillation",
    "ekd",
    "margin_distillation",
    "proxyless",
    "adadistill",
    "fskd",
    "askd",
]


class LossesSettings(Settings):
    """The losses that are summed, each with its weight. The field's name is the loss's name everywhere."""

    only: LossName | None = None
    """Takes this loss alone, as its own settings say or else as published: how a search chooses by name."""
    raw_mse: RawMSESettings | None = None
    """Squared error of raw embeddings."""
    unit_mse: UnitMSESettings | None = None
    """Squared error of unit embeddings."""
    cosine: CosineSettings | None = None
    """One minus the cosine similarity."""
    fitnet: FitNetSettings | None = None
    """Squared error after a learned projection, between embeddings of any widths."""
    hinton_kl: HintonKLSettings | None = None
    """Softened class probabilities."""
    gkd: GKDSettings | None = None
    """Softened class probabilities, the likely classes and the rest apart."""
    rkd: RKDSettings | None = None
    """Distances and angles between the faces of a batch."""
    cckd: CCKDSettings | None = None
    """Similarities between the faces of a batch, through a Gaussian kernel."""
    similarity_preserving: SimilarityPreservingSettings | None = None
    """Similarities between the faces of a batch, row by row."""
    darkrank: DarkRankSettings | None = None
    """In which order faces resemble a query."""
    triplet_distillation: TripletDistillationSettings | None = None
    """Triplets whose margin the teacher sets."""
    ekd: EKDSettings | None = None
    """At which false positive rates a pair would be accepted."""
    margin_distillation: MarginDistillationSettings | None = None
    """ArcFace on the teacher's class centres, with a margin for each face."""
    proxyless: ProxylessSettings | None = None
    """ArcFace on the teacher's class centres."""
    adadistill: AdaDistillSettings | None = None
    """A margin on class centres that grow out of the teacher's embeddings."""
    fskd: FSKDSettings | None = None
    """Feature maps of a small and a sharp view."""
    askd: ASKDSettings | None = None
    """Where a small and a sharp view are looked at."""

    @model_validator(mode="after")
    def _something_is_minimised(self) -> Self:
        named = self.named()
        if named and not any(loss.weight > 0 for loss in named.values()):
            raise ValueError(f"a weight must be above 0, got 0 for every loss named: {', '.join(named)}")
        if self.only is not None and (others := [name for name in self._set() if name != self.only]):
            raise ValueError(f"only must leave no other loss set: it is {self.only}, got {', '.join(others)}")
        return self

    def named(self) -> dict[str, LossSettings]:
        """The losses that are set, by name, those of weight 0 among them."""
        if self.only is None:
            return self._set()
        return {self.only: self._set().get(self.only) or _LOSSES[self.only]()}

    def used(self) -> dict[str, LossSettings]:
        """The losses of a weight above 0, by name."""
        return {name: loss for name, loss in self.named().items() if loss.weight > 0}

    def build(self, context: LossContext) -> WeightedLosses:
        """Builds the losses of a weight above 0, see `assemble`."""
        return self.assemble(self.used(), context)

    @staticmethod
    def assemble(losses: dict[str, LossSettings], context: LossContext) -> WeightedLosses:
        """Builds losses by name.

        Raises:
            InputError: If a loss cannot compare embeddings of these widths.
        """
        for name, loss in losses.items():
            if loss.same_width and context.student_dim != context.teacher_dim:
                raise InputError(
                    f"losses.{name} needs embeddings as wide as the teacher's {context.teacher_dim}, "
                    f"the student's have {context.student_dim}"
                )
        return WeightedLosses(
            {name: loss.build(context) for name, loss in losses.items()},
            weights={name: loss.weight for name, loss in losses.items()},
        )

    def _set(self) -> dict[str, LossSettings]:
        return {name: loss for name, loss in self if isinstance(loss, LossSettings)}


_LOSSES: dict[str, type[LossSettings]] = {
    name: get_args(field.annotation)[0]
    for name, field in LossesSettings.model_fields.items()
    if name != "only"
}

__all__ = [
    "CosineSettings",
    "DistillationLoss",
    "LossContext",
    "LossName",
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
