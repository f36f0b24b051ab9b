"""Margin distillation: on the teacher's centres, with a wider margin where the teacher is surer.

Svitov and Alyamkin, "MarginDistillation: Distillation for Margin-Based Softmax", 2020.
https://arxiv.org/abs/2003.02586

B: this worker's share of the batch, C: classes, D: width of the embedding, of student and teacher alike
"""

import math
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from distill.losses.base import (
    DistillationLoss,
    LossContext,
    LossSettings,
    Need,
    require_centres,
    require_labels,
)
from distill.losses.class_centres import arcface_cross_entropy, cosines_to_centres
from distill.losses.gather import gather
from distill.outputs import ModelOutputs


def sample_margins(cosine_B: Tensor, *, min_margin_rad: float, max_margin_rad: float) -> Tensor:
    """The margin of each face, in radians, of shape (B,).

    It rises with the teacher's cosine to the face's own centre, from `min_margin_rad` at a cosine of 0 (or
    below) to `max_margin_rad` at the highest one of the batch of all workers.
    """
    cosine_B = cosine_B.detach().clamp(min=0)
    # In a batch without any cosine above 0, every margin is the smallest.
    highest = gather(cosine_B).max().clamp(min=torch.finfo(cosine_B.dtype).tiny)
    return min_margin_rad + (max_margin_rad - min_margin_rad) * (cosine_B / highest)


class MarginDistillation(DistillationLoss):
    """ArcFace cross-entropy of student embeddings on the teacher's frozen centres, a margin for each face."""

    centre_CD: Tensor

    def __init__(self, centre_CD: Tensor, *, scale: float, min_margin_rad: float, max_margin_rad: float):
        super().__init__()
        self.register_buffer("centre_CD", centre_CD, persistent=False)  # frozen: every build is given it
        self._scale = scale
        self._min_margin_rad = min_margin_rad
        self._max_margin_rad = max_margin_rad

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        labels_B = require_labels(labels_B)
        own_centre_BD = self.centre_CD[labels_B]
        margin_B = sample_margins(
            torch.cosine_similarity(teacher.embedding, own_centre_BD),
            min_margin_rad=self._min_margin_rad,
            max_margin_rad=self._max_margin_rad,
        )
        cosine_BC = cosines_to_centres(student.embedding, self.centre_CD)
        return arcface_cross_entropy(cosine_BC, labels_B, scale=self._scale, margin_rad=margin_B)


class MarginDistillationSettings(LossSettings):
    """Faces that the teacher is sure of must come nearer to the teacher's centre than hard ones."""

    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "teacher_centres"})
    same_width: ClassVar[bool] = True

    min_margin_rad: float = Field(default=0.2, ge=0.0, le=math.pi / 2)
    """Margin of a face that the teacher sees at right angles to its centre."""
    max_margin_rad: float = Field(default=0.5, ge=0.0, le=math.pi / 2)
    """Margin of the face of a batch that the teacher sees nearest to its centre."""
    scale: float = Field(default=64.0, gt=0.0)
    """What cosines are multiplied with to become logits."""

    @model_validator(mode="after")
    def _margins_are_in_order(self) -> Self:
        if self.min_margin_rad > self.max_margin_rad:
            raise ValueError(
                f"min_margin_rad must not exceed max_margin_rad, got {self.min_margin_rad:g} and "
                f"{self.max_margin_rad:g}"
            )
        return self

    def build(self, context: LossContext) -> MarginDistillation:
        return MarginDistillation(
            require_centres(context),
            scale=self.scale,
            min_margin_rad=self.min_margin_rad,
            max_margin_rad=self.max_margin_rad,
        )
