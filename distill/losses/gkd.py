"""Grouped distillation: class probabilities are compared where they matter, the tail of classes is dropped.

Zhao et al., "Grouped Knowledge Distillation for Deep Face Recognition", AAAI 2023.
https://arxiv.org/abs/2304.04462

For each face, the likeliest classes form a primary group. Hinton's divergence then falls into three parts:
how probability is spread inside the primary group, how it is spread over the rest, and how much of it each of
the two gets. The second is noise that a small student cannot fit among thousands of classes; it is left out.

B: batch, C: classes, D: width of the teacher's embedding
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill.losses.base import DistillationLoss, LossContext, LossSettings, Need, require_centres
from distill.losses.class_centres import cosines_to_centres, require_logits
from distill.outputs import ModelOutputs

RankBy = Literal["student", "teacher"]

LEFT_OUT = -1e9
"""Log-probability of a class that is left out: exp of it is 0, and unlike infinity it can be subtracted."""


def primary_group(probability_BC: Tensor, *, threshold: float) -> Tensor:
    """Which classes are primary: the fewest whose probabilities sum to `threshold` or more, bool (B, C)."""
    ranked_BC, class_BC = probability_BC.sort(dim=1, descending=True)
    last_rank_B1 = (ranked_BC.cumsum(1) < threshold).sum(1, keepdim=True)
    rank_C = torch.arange(probability_BC.shape[1], device=probability_BC.device)
    return torch.zeros_like(class_BC, dtype=torch.bool).scatter(1, class_BC, rank_C <= last_rank_B1)


def gkd_terms(
    student_logits_BC: Tensor,
    teacher_logits_BC: Tensor,
    *,
    temperature: float,
    threshold: float,
    rank_by: RankBy,
) -> tuple[Tensor, Tensor]:
    """Divergence of the teacher's from the student's probabilities, inside and of the primary group.

    Both are batch means, times T^2 as in `hinton_kl`: T then leaves the size of the gradient alone.

    Returns:
        KL of the probabilities of primary classes, which sum to 1 among themselves, of shape (), and KL of
        the two masses, of the primary group and of the rest, of shape ().
    """
    student_BC = F.log_softmax(student_logits_BC / temperature, dim=1)
    teacher_BC = F.log_softmax(teacher_logits_BC.detach() / temperature, dim=1)
    ranking_BC = student_BC.detach() if rank_by == "student" else teacher_BC
    primary_BC = primary_group(ranking_BC.exp(), threshold=threshold)
    within = _divergence(
        student_BC.masked_fill(~primary_BC, LEFT_OUT).log_softmax(1),
        teacher_BC.masked_fill(~primary_BC, LEFT_OUT).log_softmax(1),
    )
    binary = _divergence(_log_masses(student_BC, primary_BC), _log_masses(teacher_BC, primary_BC))
    return temperature**2 * within, temperature**2 * binary


class GKD(DistillationLoss):
    """The weighted sum of `gkd_terms`."""

    centre_CD: Tensor

    def __init__(
        self,
        centre_CD: Tensor,
        *,
        scale: float,
        temperature: float,
        threshold: float,
        rank_by: RankBy,
        primary_weight: float,
        binary_weight: float,
    ):
        super().__init__()
        self.register_buffer("centre_CD", centre_CD, persistent=False)  # frozen: every build is given it
        self._scale = scale
        self._temperature = temperature
        self._threshold = threshold
        self._rank_by: RankBy = rank_by
        self._primary_weight = primary_weight
        self._binary_weight = binary_weight

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        del labels_B
        within, binary = gkd_terms(
            require_logits(student),
            self._scale * cosines_to_centres(teacher.embedding, self.centre_CD),
            temperature=self._temperature,
            threshold=self._threshold,
            rank_by=self._rank_by,
        )
        return self._primary_weight * within + self._binary_weight * binary


class GKDSettings(LossSettings):
    """Class probabilities inside the likeliest classes, and how much those have together."""

    needs: ClassVar[frozenset[Need]] = frozenset({"classifier", "teacher_centres"})

    threshold: float = Field(default=0.93, gt=0.0, lt=1.0)
    """The paper's tau: the softened probability that the primary classes reach together."""
    primary_weight: float = Field(default=8.0, ge=0.0)
    """The paper's lambda 1: weight of the divergence inside the primary group."""
    binary_weight: float = Field(default=1.0, ge=0.0)
    """The paper's lambda 2: weight of the divergence of the two masses."""
    temperature: float = Field(default=4.0, gt=0.0)
    """What logits are divided by. The paper's is not known to us; this is Hinton's usual one."""
    rank_by: RankBy = "student"
    """Whose probabilities choose the primary classes. The paper's choice is the student's."""
    scale: float = Field(default=64.0, gt=0.0)
    """What the teacher's cosines are multiplied with to become logits."""

    def build(self, context: LossContext) -> GKD:
        return GKD(
            require_centres(context),
            scale=self.scale,
            temperature=self.temperature,
            threshold=self.threshold,
            rank_by=self.rank_by,
            primary_weight=self.primary_weight,
            binary_weight=self.binary_weight,
        )


def _log_masses(log_probability_BC: Tensor, primary_BC: Tensor) -> Tensor:
    """Log of the probability of the primary classes and of the rest, of shape (B, 2)."""
    primary_B = log_probability_BC.masked_fill(~primary_BC, LEFT_OUT).logsumexp(1)
    rest_B = log_probability_BC.masked_fill(primary_BC, LEFT_OUT).logsumexp(1)
    return torch.stack((primary_B, rest_B), dim=1)


def _divergence(student_log: Tensor, teacher_log: Tensor) -> Tensor:
    return F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
