"""Similarity-preserving distillation: faces that are alike to the teacher are alike to the student.

N: the whole batch, D: width of an embedding (student and teacher may differ)
"""

import torch.nn.functional as F
from torch import Tensor

from distill.losses.base import DistillationLoss, LossContext, LossSettings
from distill.losses.gather import gather, gather_with_gradient
from distill.outputs import ModelOutputs


def similarity_preserving(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Squared Frobenius distance of the similarity matrices over N^2, at most 4 / N.

    A row of a matrix holds the dot products of one raw embedding with all N, scaled to unit length. The norm
    of a face's embedding thus matters as a column, as its weight in everybody's row.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019.
    https://arxiv.org/abs/1907.09682
    """
    return F.mse_loss(_similarities(student_ND), _similarities(teacher_ND.detach()))


def _similarities(raw_ND: Tensor) -> Tensor:
    # A row's length is no matter, so neither is that of its own face: unit rows keep float16 in range.
    return F.normalize(F.normalize(raw_ND) @ raw_ND.T)


class SimilarityPreserving(DistillationLoss):
    """`similarity_preserving` of the whole batch."""

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        del labels_B
        return similarity_preserving(gather_with_gradient(student.embedding), gather(teacher.embedding))


class SimilarityPreservingSettings(LossSettings):
    """Similarity-preserving distillation: every face's profile of similarities to the batch."""

    @property
    def min_batch_size(self) -> int:
        """Two: a single face's profile is always 1."""
        return 2

    def build(self, context: LossContext) -> SimilarityPreserving:
        del context
        return SimilarityPreserving()
