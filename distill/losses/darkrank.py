"""DarkRank: the student ranks faces by likeness as the teacher does.

N: the whole batch, D: width of an embedding (student and teacher may differ), L: candidates of a query
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill.losses.base import DistillationLoss, LossContext, LossSettings
from distill.losses.gather import gather, gather_with_gradient
from distill.outputs import ModelOutputs


def darkrank(
    student_ND: Tensor, teacher_ND: Tensor, *, alpha: float = 3.0, beta: float = 3.0, list_length: int = 4
) -> Tensor:
    """Mean over queries of minus the log-likelihood, to the student, of the teacher's ranking.

    Every face is a query. Its L candidates are the faces that follow it in the batch, the first following
    the last. A candidate's score is -alpha times its distance from the query (of unit embeddings, in [0, 2])
    to the power beta. The likelihood of a ranking is Plackett and Luce's: each place goes to one of those
    left with the odds of the exponential of its score. Of equally distant ones the teacher ranks the one
    that follows sooner first. This is the paper's hard version, which takes the teacher's likeliest ranking.
    It is above 0 even where the student equals the teacher.

    Chen et al., "DarkRank", AAAI 2018. https://arxiv.org/abs/1707.01220

    Args:
        alpha: Scale of the scores, above 0.
        beta: Power of the distance, at least 1 so that coinciding faces have a gradient.
        list_length: L, at least 2; the query is not counted.

    Raises:
        ValueError: If a query has fewer than L other faces.
    """
    num_faces = len(student_ND)
    if num_faces <= list_length:
        raise ValueError(f"list_length must be below the number of faces {num_faces}, got {list_length}")
    distance_NL = _distances(student_ND, list_length=list_length)
    order_NL = _distances(teacher_ND.detach(), list_length=list_length).argsort(dim=1, stable=True)
    ranked_NL = -alpha * distance_NL.gather(1, order_NL).pow(beta)
    left_NL = ranked_NL.flip(1).logcumsumexp(1).flip(1)
    return (left_NL - ranked_NL).sum(1).mean()


def _distances(raw_ND: Tensor, *, list_length: int) -> Tensor:
    unit_ND = F.normalize(raw_ND)
    row_N1 = torch.arange(len(unit_ND), device=unit_ND.device)[:, None]
    step_1L = torch.arange(1, list_length + 1, device=unit_ND.device)[None]
    return (unit_ND[:, None] - unit_ND[(row_N1 + step_1L) % len(unit_ND)]).norm(dim=2)


class DarkRank(DistillationLoss):
    """`darkrank` of the whole batch."""

    def __init__(self, *, alpha: float, beta: float, list_length: int):
        super().__init__()
        self._alpha = alpha
        self._beta = beta
        self._list_length = list_length

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        del labels_B
        return darkrank(
            gather_with_gradient(student.embedding),
            gather(teacher.embedding),
            alpha=self._alpha,
            beta=self._beta,
            list_length=self._list_length,
        )


class DarkRankSettings(LossSettings):
    """DarkRank, hard version: the likelihood of the teacher's ranking of a few faces by likeness to another.

    It stays above 0 even where the student equals the teacher.
    """

    alpha: float = Field(default=3.0, gt=0.0)
    """Scale of the scores: the higher, the surer a ranking."""
    beta: float = Field(default=3.0, ge=1.0)
    """Power of the distance: the higher, the more far faces stand out and the less near ones do."""
    list_length: int = Field(default=4, ge=2)
    """Candidates that are ranked for each query, which is not counted."""

    @property
    def min_batch_size(self) -> int:
        """A query and its candidates."""
        return self.list_length + 1

    def build(self, context: LossContext) -> DarkRank:
        del context
        return DarkRank(alpha=self.alpha, beta=self.beta, list_length=self.list_length)
