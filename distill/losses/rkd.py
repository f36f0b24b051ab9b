"""Relational distillation: the student keeps the teacher's distances and angles between faces.

N: the whole batch, D: width of an embedding (student and teacher may differ), P: pairs of different faces,
V: the vertex of an angle, one of the N
"""

from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from distill.losses.base import DistillationLoss, LossContext, LossSettings
from distill.losses.gather import gather, gather_with_gradient
from distill.outputs import ModelOutputs

MIN_DISTANCE = 1e-6
"""Unit embeddings nearer than this coincide: the line between them has no direction."""


def relative_distances(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Mean over pairs of different faces of the Huber loss (delta 1) of their relative distances.

    A relative distance is that of two unit embeddings over its mean over all pairs of different faces, the
    student's and the teacher's each over its own. Computed in float32.

    Park et al., "Relational Knowledge Distillation", CVPR 2019. https://arxiv.org/abs/1904.05068
    """
    return F.smooth_l1_loss(_relative_distances(student_ND), _relative_distances(teacher_ND.detach()))


def triplet_angles(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Mean over triplets of different faces of the Huber loss (delta 1) of the cosine of their angle.

    The angle is the one at the second face of (i, j, k), between unit embeddings. It takes memory for N^3
    cosines and N^2 D differences of student and teacher each, in float32: 1 GiB for N = D = 512, and about
    as much again for gradients.

    Park et al., "Relational Knowledge Distillation", CVPR 2019. https://arxiv.org/abs/1904.05068

    Raises:
        ValueError: If there are fewer than three faces.
    """
    num_faces = len(student_ND)
    if num_faces < 3:
        raise ValueError(f"angles need at least 3 faces, got {num_faces}")
    student_VNN, teacher_VNN = _cosines(student_ND), _cosines(teacher_ND.detach())
    total = F.smooth_l1_loss(student_VNN, teacher_VNN, reduction="sum")
    # An edge's angle with itself is no triplet, yet counts where only one of the networks has it coincide.
    with_itself = F.smooth_l1_loss(
        student_VNN.diagonal(dim1=1, dim2=2), teacher_VNN.diagonal(dim1=1, dim2=2), reduction="sum"
    )
    return (total - with_itself) / (num_faces * (num_faces - 1) * (num_faces - 2))


def rkd(
    student_ND: Tensor, teacher_ND: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """The weighted sum of `relative_distances` and `triplet_angles`. A part of weight 0 is not computed.

    The paper compares raw embeddings. Faces are told apart by direction alone, so here they are unit ones.

    Raises:
        ValueError: If there are fewer than three faces.
    """
    loss = torch.zeros((), device=student_ND.device)
    if distance_weight > 0:
        loss = loss + distance_weight * relative_distances(student_ND, teacher_ND)
    if angle_weight > 0:
        loss = loss + angle_weight * triplet_angles(student_ND, teacher_ND)
    return loss


def _relative_distances(raw_ND: Tensor) -> Tensor:
    distance_P = F.pdist(F.normalize(raw_ND.float()))
    return distance_P / distance_P.mean().clamp_min(MIN_DISTANCE)


def _cosines(raw_ND: Tensor) -> Tensor:
    """Cosine of the angle at each face between the lines to every two others, (V, N, N); 0 without a line."""
    unit_ND = F.normalize(raw_ND.float())
    edge_VND = unit_ND[None] - unit_ND[:, None]
    length_VN1 = edge_VND.norm(dim=2, keepdim=True)
    direction_VND = edge_VND / length_VN1.clamp_min(MIN_DISTANCE)
    # Rounding alone says where a line that short points, and its gradient would be as large as it is short.
    direction_VND = direction_VND.masked_fill(length_VN1 < MIN_DISTANCE, 0.0)
    return direction_VND @ direction_VND.transpose(1, 2)


class RKD(DistillationLoss):
    """`rkd` of the whole batch."""

    def __init__(self, *, distance_weight: float, angle_weight: float):
        super().__init__()
        self._distance_weight = distance_weight
        self._angle_weight = angle_weight

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        del labels_B
        return rkd(
            gather_with_gradient(student.embedding),
            gather(teacher.embedding),
            distance_weight=self._distance_weight,
            angle_weight=self._angle_weight,
        )


class RKDSettings(LossSettings):
    """Relational distillation: distances and angles between faces, blind to where and how large they are.

    The weights of the parts are those that EKD's authors use for faces; the paper's are 1 and 2.
    """

    distance_weight: float = Field(default=25.0, ge=0.0)
    """Weight of the distances within the loss. 0 leaves them out."""
    angle_weight: float = Field(default=50.0, ge=0.0)
    """Weight of the angles within the loss. 0 leaves them out, and with them memory for N^3 cosines."""

    @model_validator(mode="after")
    def _something_is_compared(self) -> Self:
        if not (self.distance_weight > 0 or self.angle_weight > 0):
            raise ValueError("distance_weight or angle_weight must be above 0, got 0 for both")
        return self

    @property
    def min_batch_size(self) -> int:
        """Three: an angle has three faces, and two faces have but one distance, which is its own mean."""
        return 3

    def build(self, context: LossContext) -> RKD:
        del context
        return RKD(distance_weight=self.distance_weight, angle_weight=self.angle_weight)
