"""Triplet distillation: a triplet loss whose margin is as wide as the teacher finds the faces apart.

N: the whole batch, D: width of an embedding (student and teacher may differ), G: genuine pairs, anchor first
"""

from typing import ClassVar, Literal, Self

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from distill.losses.angles import MAX_COSINE
from distill.losses.base import DistillationLoss, LossContext, LossSettings, Need, require_labels
from distill.losses.gather import gather, gather_with_gradient
from distill.outputs import ModelOutputs

Distance = Literal["l2", "angle"]


def triplet_distillation(
    student_ND: Tensor,
    teacher_ND: Tensor,
    labels_N: Tensor,
    *,
    max_margin: float = 0.5,
    min_margin: float = 0.2,
    distance: Distance = "l2",
) -> Tensor:
    """Mean over all triplets of how far the student falls short of the margin, relu(d(a,p) - d(a,n) + m).

    Every triplet of an anchor a, another face p of its class and a face n of another counts, satisfied or
    not. The margin m grows in proportion to the teacher's gap relu(d(a,n) - d(a,p)), from `min_margin` where
    there is none to `max_margin` at the batch's widest. Without a triplet the loss is 0. It takes memory
    for G N distances.

    Feng et al., "Triplet Distillation for Deep Face Recognition", 2019. https://arxiv.org/abs/1905.04457

    Args:
        labels_N: Each face's class.
        max_margin: The widest margin, in units of the distance.
        min_margin: The narrowest margin, in [0, max_margin].
        distance: Of unit embeddings: `l2` is the squared Euclidean distance, in [0, 4]; `angle` the angle
            between them in radians, in [0, pi].
    """
    is_same_NN = labels_N[:, None] == labels_N
    anchor_G, positive_G = is_same_NN.fill_diagonal_(False).nonzero(as_tuple=True)
    is_negative_GN = labels_N[anchor_G, None] != labels_N

    student_NN = _distances(student_ND, distance)
    teacher_NN = _distances(teacher_ND.detach(), distance)
    teacher_gap_GN = (teacher_NN[anchor_G] - teacher_NN[anchor_G, positive_G][:, None]).relu()
    student_gap_GN = student_NN[anchor_G] - student_NN[anchor_G, positive_G][:, None]

    gap, teacher_gap = student_gap_GN[is_negative_GN], teacher_gap_GN[is_negative_GN]
    if len(gap) == 0:
        return student_NN.sum() * 0
    # Where the teacher finds no gap at all, every margin is the narrowest.
    share = teacher_gap / teacher_gap.max().clamp_min(1e-12)
    margin = min_margin + (max_margin - min_margin) * share
    return (margin - gap).relu().mean()


def _distances(raw_ND: Tensor, distance: Distance) -> Tensor:
    unit_ND = F.normalize(raw_ND)
    cosine_NN = unit_ND @ unit_ND.T
    if distance == "l2":
        return 2 - 2 * cosine_NN
    return cosine_NN.clamp(-MAX_COSINE, MAX_COSINE).acos()


class TripletDistillation(DistillationLoss):
    """`triplet_distillation` of the whole batch."""

    def __init__(self, *, max_margin: float, min_margin: float, distance: Distance):
        super().__init__()
        self._max_margin = max_margin
        self._min_margin = min_margin
        self._distance: Distance = distance

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        return triplet_distillation(
            gather_with_gradient(student.embedding),
            gather(teacher.embedding),
            gather(require_labels(labels_B)),
            max_margin=self._max_margin,
            min_margin=self._min_margin,
            distance=self._distance,
        )


class TripletDistillationSettings(LossSettings):
    """Triplet distillation: faces of other classes stay away, the further the less alike the teacher finds
    them.

    The paper fine-tunes a student that already tells faces apart. It stays above 0 where the student equals
    the teacher.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "positives"})

    max_margin: float = Field(default=0.5, gt=0.0)
    """Margin of the triplet that the teacher sets furthest apart, in units of the distance."""
    min_margin: float = Field(default=0.2, ge=0.0)
    """Margin of triplets that the teacher does not set apart."""
    distance: Distance = "l2"
    """Of unit embeddings. l2: squared Euclidean distance, in [0, 4]. angle: in radians, in [0, pi]."""

    @model_validator(mode="after")
    def _margins_are_in_order(self) -> Self:
        if self.min_margin > self.max_margin:
            raise ValueError(
                f"min_margin must be at most max_margin {self.max_margin}, got {self.min_margin}"
            )
        return self

    @property
    def min_batch_size(self) -> int:
        """A triplet."""
        return 3

    def build(self, context: LossContext) -> TripletDistillation:
        del context
        return TripletDistillation(
            max_margin=self.max_margin, min_margin=self.min_margin, distance=self.distance
        )
