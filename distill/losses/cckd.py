"""Correlation congruence: the student keeps the teacher's kernel between every two faces.

N: the whole batch, D: width of an embedding (student and teacher may differ)
"""

import math

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill.losses.base import DistillationLoss, LossContext, LossSettings
from distill.losses.gather import gather, gather_with_gradient
from distill.outputs import ModelOutputs


def cckd(student_ND: Tensor, teacher_ND: Tensor, *, gamma: float = 0.4, order: int = 1) -> Tensor:
    """Mean over all ordered pairs, a face with itself among them, of the squared difference of kernels.

    The kernel is the Gaussian one of unit embeddings, exp(-gamma |f_i - f_j|^2), whose Taylor series in the
    cosine is cut after the power `order`: sum over p of exp(-2 gamma) (2 gamma)^p / p! cos_ij^p. With order 1
    it is a line, and the loss exp(-4 gamma) (2 gamma)^2 times the mean squared difference of cosines.

    Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019.
    https://arxiv.org/abs/1904.01802

    Args:
        gamma: How fast the kernel falls with the squared distance, above 0.
        order: Highest power of the cosine, at least 1.
    """
    return F.mse_loss(
        _kernel(student_ND, gamma=gamma, order=order), _kernel(teacher_ND.detach(), gamma=gamma, order=order)
    )


def _kernel(raw_ND: Tensor, *, gamma: float, order: int) -> Tensor:
    unit_ND = F.normalize(raw_ND)
    cosine_NN = unit_ND @ unit_ND.T
    kernel_NN = cosine_NN.new_zeros(())
    for power in range(order, -1, -1):
        coefficient = math.exp(-2 * gamma) * (2 * gamma) ** power / math.factorial(power)
        kernel_NN = kernel_NN * cosine_NN + coefficient
    return kernel_NN


class CCKD(DistillationLoss):
    """`cckd` of the whole batch."""

    def __init__(self, *, gamma: float, order: int):
        super().__init__()
        self._gamma = gamma
        self._order = order

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        del labels_B
        return cckd(
            gather_with_gradient(student.embedding),
            gather(teacher.embedding),
            gamma=self._gamma,
            order=self._order,
        )


class CCKDSettings(LossSettings):
    """Correlation congruence: kernels of every two faces, a power series of their cosine similarity."""

    gamma: float = Field(default=0.4, gt=0.0)
    """How fast the Gaussian kernel falls with the squared distance of unit embeddings."""
    order: int = Field(default=1, ge=1, le=20)
    """Power of the cosine after which the kernel's Taylor series is cut. 1 compares cosines as they are;
    from 2 on pairs of like faces weigh more than others."""

    @property
    def min_batch_size(self) -> int:
        """Two: a face is always as like itself."""
        return 2

    def build(self, context: LossContext) -> CCKD:
        del context
        return CCKD(gamma=self.gamma, order=self.order)
