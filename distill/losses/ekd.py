"""Evaluation-oriented distillation: pairs pass the student's false accept rates as they pass the teacher's.

N: the whole batch, D: width of an embedding (student and teacher may differ), P: pairs of different faces,
K: false accept rates (FARs), 0.1 to 1e-6
"""

from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from distill.losses.base import DistillationLoss, LossContext, LossSettings, Need, require_labels
from distill.losses.gather import gather, gather_with_gradient
from distill.outputs import ModelOutputs

NUM_FARS = 6
"""K: the FARs are 10^-1 to 10^-6."""


def far_thresholds(impostor_P: Tensor) -> Tensor:
    """Similarities that a share of 10^-1, ... 10^-6 of the impostor pairs lies above, of shape (K,).

    The threshold at a FAR is the impostor similarity at the index floor(FAR P), from 0, of descending order.
    Below 1 / FAR impostor pairs that is the hardest pair of all: 64 faces, about 2,000 pairs, resolve FARs
    down to 1e-3, 512 faces down to 1e-5, and lower ones coincide there.

    Args:
        impostor_P: Cosine similarities of pairs of different people.

    Raises:
        ValueError: If there is no impostor pair.
    """
    if len(impostor_P) == 0:
        raise ValueError("thresholds need an impostor pair, got none")
    index_K = [len(impostor_P) // 10**decade for decade in range(1, NUM_FARS + 1)]
    return impostor_P.detach().topk(index_K[0] + 1).values[index_K]


def soft_ranks(similarity_P: Tensor, threshold_K: Tensor, *, temperature: float) -> Tensor:
    """How many FARs each pair is accepted at, softly, in [0, K]: sum over k of sigmoid((sim - thr_k) / t)."""
    return ((similarity_P[:, None] - threshold_K) / temperature).sigmoid().sum(1)


def ekd(
    student_P: Tensor,
    teacher_P: Tensor,
    is_genuine_P: Tensor,
    *,
    student_threshold_K: Tensor,
    teacher_threshold_K: Tensor,
    temperature: float = 0.01,
    top_k: int = 2000,
    positive_weight: float = 0.02,
    negative_weight: float = 0.01,
) -> Tensor:
    """Weighted mean squared differences of `soft_ranks`, over genuine pairs and over the hardest impostors.

    The student's similarities are ranked by the student's thresholds, the teacher's by the teacher's. The
    hardest impostor pairs are those most alike to the student: they are the false accepts that it would
    make, so the ones whose rank its accuracy hangs on. A kind of pair that the batch lacks adds 0.

    Huang et al., "Evaluation-oriented Knowledge Distillation for Deep Face Recognition", CVPR 2022.
    https://arxiv.org/abs/2206.02325

    Args:
        student_P: The student's cosine similarity of every pair of different faces.
        teacher_P: The teacher's.
        is_genuine_P: True where both faces show the same person, False for an impostor pair.
        student_threshold_K: The student's similarity at each FAR.
        teacher_threshold_K: The teacher's.
        temperature: t, above 0, in units of the cosine similarity.
        top_k: Impostor pairs that are compared, at most.
        positive_weight: Weight of the genuine pairs.
        negative_weight: Weight of the impostor pairs.
    """
    student_rank_P = soft_ranks(student_P, student_threshold_K, temperature=temperature)
    teacher_rank_P = soft_ranks(teacher_P.detach(), teacher_threshold_K, temperature=temperature)
    gap_P = student_rank_P - teacher_rank_P
    genuine, impostor = gap_P[is_genuine_P], gap_P[~is_genuine_P]
    hardest = student_P[~is_genuine_P].topk(min(top_k, len(impostor))).indices
    return positive_weight * _mean_square(genuine) + negative_weight * _mean_square(impostor[hardest])


def _mean_square(gap: Tensor) -> Tensor:
    return gap.square().sum() / max(len(gap), 1)


def _pair_similarities(raw_ND: Tensor) -> Tensor:
    """Cosine similarity of every two different faces, (P,), in the order of `torch.triu_indices`."""
    unit_ND = F.normalize(raw_ND)
    return _pairs(unit_ND @ unit_ND.T)


def _pairs(value_NN: Tensor) -> Tensor:
    first_P, second_P = torch.triu_indices(*value_NN.shape, offset=1, device=value_NN.device)
    return value_NN[first_P, second_P]


class RunningThresholds(nn.Module):
    """Moving averages of a network's `far_thresholds`. The first batch sets them, so none pulls to 0.

    Only training moves them. Before the first batch, evaluation uses those of the batch at hand.
    """

    threshold_K: Tensor
    is_set: Tensor

    def __init__(self, *, update_rate: float):
        super().__init__()
        self._update_rate = update_rate
        self.register_buffer("threshold_K", torch.zeros(NUM_FARS))
        self.register_buffer("is_set", torch.tensor(False))

    def forward(self, impostor_P: Tensor) -> Tensor:
        """Takes the impostor similarities of the whole batch, (P,), in; returns the thresholds, (K,)."""
        batch_K = far_thresholds(impostor_P).to(self.threshold_K.dtype)
        moved_K = self.threshold_K.lerp(batch_K, self._update_rate) if self.training else self.threshold_K
        threshold_K = torch.where(self.is_set, moved_K, batch_K)
        if self.training:
            self.threshold_K.copy_(threshold_K)
            self.is_set.fill_(True)
        return threshold_K


class EKD(DistillationLoss):
    """`ekd` of the whole batch, at thresholds that it keeps; 0 where the batch has no impostor pair."""

    def __init__(
        self,
        *,
        temperature: float,
        top_k: int,
        positive_weight: float,
        negative_weight: float,
        update_rate: float,
    ):
        super().__init__()
        self._temperature = temperature
        self._top_k = top_k
        self._positive_weight = positive_weight
        self._negative_weight = negative_weight
        self.student_thresholds = RunningThresholds(update_rate=update_rate)
        self.teacher_thresholds = RunningThresholds(update_rate=update_rate)

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        labels_N = gather(require_labels(labels_B))
        is_genuine_P = _pairs(labels_N[:, None] == labels_N)
        student_P = _pair_similarities(gather_with_gradient(student.embedding))
        teacher_P = _pair_similarities(gather(teacher.embedding))
        if is_genuine_P.all():
            return student_P.sum() * 0
        return ekd(
            student_P,
            teacher_P,
            is_genuine_P,
            student_threshold_K=self.student_thresholds(student_P[~is_genuine_P]),
            teacher_threshold_K=self.teacher_thresholds(teacher_P[~is_genuine_P]),
            temperature=self._temperature,
            top_k=self._top_k,
            positive_weight=self._positive_weight,
            negative_weight=self._negative_weight,
        )


class EKDSettings(LossSettings):
    """Evaluation-oriented distillation: what counts is the false accept rates that a pair is accepted at.

    It wants large batches: FARs below one over the batch's impostor pairs are not told from one another.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "positives"})

    temperature: float = Field(default=0.01, gt=0.0)
    """How far, in cosine similarity, a pair must be from a threshold to be plainly on one side of it."""
    top_k: int = Field(default=2000, ge=1)
    """Impostor pairs that are compared: those most alike to the student."""
    positive_weight: float = Field(default=0.02, ge=0.0)
    """Weight of the genuine pairs within the loss."""
    negative_weight: float = Field(default=0.01, ge=0.0)
    """Weight of the impostor pairs within the loss."""
    update_rate: float = Field(default=0.01, gt=0.0, le=1.0)
    """How far each batch moves the thresholds towards its own."""

    @model_validator(mode="after")
    def _something_is_compared(self) -> Self:
        if not (self.positive_weight > 0 or self.negative_weight > 0):
            raise ValueError("positive_weight or negative_weight must be above 0, got 0 for both")
        return self

    @property
    def min_batch_size(self) -> int:
        """Eight: four people's faces in twos have 24 impostor pairs, which resolve a FAR of 0.1."""
        return 8

    def build(self, context: LossContext) -> EKD:
        del context
        return EKD(
            temperature=self.temperature,
            top_k=self.top_k,
            positive_weight=self.positive_weight,
            negative_weight=self.negative_weight,
            update_rate=self.update_rate,
        )
