"""The student inherits the teacher's classifier, frozen, and only learns to be recognised by it.

Shi et al., "ProxylessKD: Direct Knowledge Distillation with Inherited Classifier for Face Recognition", 2020.
https://arxiv.org/abs/2011.00265

B: this worker's share of the batch, C: classes, D: width of the embedding, of student and teacher alike
"""

import math
from typing import ClassVar

from pydantic import Field
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
from distill.outputs import ModelOutputs


class Proxyless(DistillationLoss):
    """ArcFace cross-entropy of student embeddings on the teacher's frozen centres."""

    centre_CD: Tensor

    def __init__(self, centre_CD: Tensor, *, scale: float, margin_rad: float):
        super().__init__()
        self.register_buffer("centre_CD", centre_CD, persistent=False)  # frozen: every build is given it
        self._scale = scale
        self._margin_rad = margin_rad

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        del teacher  # what it knows is in its centres
        cosine_BC = cosines_to_centres(student.embedding, self.centre_CD)
        return arcface_cross_entropy(
            cosine_BC, require_labels(labels_B), scale=self._scale, margin_rad=self._margin_rad
        )


class ProxylessSettings(LossSettings):
    """Embeddings are drawn to the teacher's class centres, not to the teacher's embeddings."""

    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "teacher_centres"})
    same_width: ClassVar[bool] = True

    margin_rad: float = Field(default=0.5, ge=0.0, le=math.pi / 2)
    """How much the angle to the true class is widened."""
    scale: float = Field(default=64.0, gt=0.0)
    """What cosines are multiplied with to become logits."""

    def build(self, context: LossContext) -> Proxyless:
        return Proxyless(require_centres(context), scale=self.scale, margin_rad=self.margin_rad)
