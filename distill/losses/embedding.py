"""Losses that pull each embedding of the student towards the teacher's embedding of the same face.

On unit vectors, mean squared error and cosine are one loss on two scales: MSE = (2 / D)(1 - cos). A weight w
of `unit_mse` is therefore a weight 2w / D of `cosine`; SFace's 10,000 at D = 512 is 39.

B: batch, D: width of the embedding, of student and teacher alike
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from distill.losses.base import DistillationLoss, LossContext, LossSettings
from distill.outputs import ModelOutputs


def raw_mse(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Mean over batch and dimensions of the squared difference of raw embeddings.

    Otroshi Shahreza et al., "SynthDistill", IJCB 2023. https://arxiv.org/abs/2308.14852
    """
    return F.mse_loss(student_BD, teacher_BD.detach())


def unit_mse(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Mean over batch and dimensions of the squared difference of unit embeddings, at most 4 / D.

    Boutros et al., "SFace", IJCB 2022. https://arxiv.org/abs/2206.10520
    """
    return F.mse_loss(F.normalize(student_BD), F.normalize(teacher_BD.detach()))


def cosine(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Mean over the batch of one minus the cosine similarity, in [0, 2].

    Duong et al., "ShrinkTeaNet", 2019. https://arxiv.org/abs/1905.10620
    """
    return (1 - F.cosine_similarity(student_BD, teacher_BD.detach())).mean()


class RawMSE(DistillationLoss):
    """`raw_mse` of a batch."""

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        del labels_B
        return raw_mse(student.embedding, teacher.embedding)


class UnitMSE(DistillationLoss):
    """`unit_mse` of a batch."""

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        del labels_B
        return unit_mse(student.embedding, teacher.embedding)


class Cosine(DistillationLoss):
    """`cosine` of a batch."""

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        del labels_B
        return cosine(student.embedding, teacher.embedding)


class RawMSESettings(LossSettings):
    """Squared error of raw embeddings: the student learns the teacher's norms too. SynthDistill's loss."""

    same_width: ClassVar[bool] = True

    def build(self, context: LossContext) -> RawMSE:
        del context
        return RawMSE()


class UnitMSESettings(LossSettings):
    """Squared error of unit embeddings, averaged over their dimensions. SFace's knowledge transfer."""

    same_width: ClassVar[bool] = True

    def build(self, context: LossContext) -> UnitMSE:
        del context
        return UnitMSE()


class CosineSettings(LossSettings):
    """One minus the cosine similarity: only directions count, whatever the width of the embedding."""

    same_width: ClassVar[bool] = True

    def build(self, context: LossContext) -> Cosine:
        del context
        return Cosine()
