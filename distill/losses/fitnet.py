"""FitNets: a learned layer stands between what the student says and what the teacher says.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015. https://arxiv.org/abs/1412.6550

The paper regresses a map in the middle of the network. In face recognition the name has come to mean the
embedding, and so it does here: the paper's 1x1 regressor becomes a linear layer, the hint the teacher's raw
embedding. The layer is trained along and is no part of the finished student.

B: batch, D: width of an embedding
"""

from torch import Tensor, nn

from distill.losses.base import DistillationLoss, LossContext, LossSettings
from distill.losses.embedding import raw_mse
from distill.outputs import ModelOutputs


class FitNet(DistillationLoss):
    """`raw_mse` of projected student embeddings: the mean over batch and the teacher's dimensions."""

    def __init__(self, *, student_dim: int, teacher_dim: int):
        super().__init__()
        self.regressor = nn.Linear(student_dim, teacher_dim)

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        del labels_B
        return raw_mse(self.regressor(student.embedding), teacher.embedding)


class FitNetSettings(LossSettings):
    """Squared error of raw embeddings behind a learned projection: widths may differ."""

    def build(self, context: LossContext) -> FitNet:
        return FitNet(student_dim=context.student_dim, teacher_dim=context.teacher_dim)
