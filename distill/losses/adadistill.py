"""AdaDistill: class centres grow out of the teacher's embeddings, as fast as the student can follow.

Boutros et al., "AdaDistill: Adaptive Knowledge Distillation for Deep Face Recognition", ECCV 2024.
https://arxiv.org/abs/2407.01332

While student and teacher disagree on a face, its centre is little more than the teacher's embedding of that
very face. As they come to agree, the centre averages over more and more faces of the class.

We depart from the published code in three places. Its centres start as random directions; ours as nothing,
and the first face of a class sets its centre. Of several faces of a class in one batch, it keeps the update
of an arbitrary one; we average them. On several workers it has as many sets of centres; we have one.

B: this worker's share of the batch, N: the whole batch, U: distinct classes in it, C: classes,
D: width of the embedding, of student and teacher alike
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill.losses.base import DistillationLoss, LossContext, LossSettings, Need, require_labels
from distill.losses.class_centres import arcface_cross_entropy, cosface_cross_entropy, cosines_to_centres
from distill.losses.gather import gather
from distill.outputs import ModelOutputs

Alpha = Literal["cos_cos", "cos"]
MarginType = Literal["arcface", "cosface"]

PUBLISHED_MARGIN: dict[MarginType, float] = {"arcface": 0.45, "cosface": 0.35}
MIN_ALPHA = 1e-6


def moved_centres(centre_ND: Tensor, student_ND: Tensor, teacher_ND: Tensor, *, alpha: Alpha) -> Tensor:
    """Where each face moves the centre of its class: a w + (1 - a) f_t, of shape (N, D), not of unit length.

    Args:
        centre_ND: The centre w of each face's class: a unit vector, or zeros if the class was not met yet,
            which gives f_t outright.
        student_ND: The student's raw embeddings f_s.
        teacher_ND: The teacher's; f_t is of unit length.
        alpha: `cos`: a = cos(f_s, f_t). `cos_cos`: a = cos(f_s, f_t) cos(w, f_t), so that a face which is not
            typical of its class moves the centre more. Both are kept within [1e-6, 1].
    """
    teacher_ND = F.normalize(teacher_ND)
    alpha_N = F.cosine_similarity(student_ND, teacher_ND)
    if alpha == "cos_cos":
        # Clamped on its own: two disagreements must not make an agreement.
        alpha_N = alpha_N * F.cosine_similarity(centre_ND, teacher_ND).clamp(min=MIN_ALPHA)
    alpha_N1 = alpha_N.clamp(MIN_ALPHA, 1)[:, None]
    moved_ND = alpha_N1 * centre_ND + (1 - alpha_N1) * teacher_ND
    return torch.where(_is_met(centre_ND)[:, None], moved_ND, teacher_ND)


class AdaDistill(DistillationLoss):
    """Cross-entropy with a margin of student embeddings, on centres made of the teacher's.

    Every training step first moves the centres (`moved_centres`, their mean where a class has several faces
    in the batch, scaled to unit length), then asks for the loss. In evaluation mode centres stay where they
    are. They get no gradient, and are the same on every worker.

    Attributes:
        centre_CD: Unit vectors, zeros for classes not met yet. Those have a cosine of 0 to every face, as a
            random direction has on average, and push no face anywhere.
    """

    centre_CD: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        embedding_dim: int,
        alpha: Alpha,
        margin_type: MarginType,
        margin: float,
        scale: float,
    ):
        super().__init__()
        self.register_buffer("centre_CD", torch.zeros(num_classes, embedding_dim))
        self._alpha: Alpha = alpha
        self._margin_type: MarginType = margin_type
        self._margin = margin
        self._scale = scale

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        labels_B = require_labels(labels_B)
        if self.training:
            self._move_centres(
                gather(student.embedding), gather(teacher.embedding), labels_N=gather(labels_B)
            )
        cosine_BC = cosines_to_centres(student.embedding, self.centre_CD)
        if self._margin_type == "arcface":
            return arcface_cross_entropy(cosine_BC, labels_B, scale=self._scale, margin_rad=self._margin)
        return cosface_cross_entropy(cosine_BC, labels_B, scale=self._scale, margin=self._margin)

    @torch.no_grad()
    def _move_centres(self, student_ND: Tensor, teacher_ND: Tensor, *, labels_N: Tensor) -> None:
        moved_ND = moved_centres(self.centre_CD[labels_N], student_ND, teacher_ND, alpha=self._alpha)
        classes_U, class_index_N = labels_N.unique(return_inverse=True)
        sum_UD = moved_ND.new_zeros(len(classes_U), moved_ND.shape[1]).index_add_(0, class_index_N, moved_ND)
        # A sum points where the mean points.
        self.centre_CD[classes_U] = F.normalize(sum_UD)


class AdaDistillSettings(LossSettings):
    """Cross-entropy on centres that the teacher's embeddings make. It needs no other loss beside it."""

    needs: ClassVar[frozenset[Need]] = frozenset({"labels"})
    same_width: ClassVar[bool] = True

    alpha: Alpha = "cos_cos"
    """How much of the old centre is kept: as student and teacher agree on the face (cos), times how typical
    the teacher finds it for its class (cos_cos, the paper's best)."""
    margin_type: MarginType = "arcface"
    """Whether the margin widens the angle to the true class (arcface) or lowers its cosine (cosface)."""
    margin: float | None = Field(default=None, ge=0.0, le=math.pi / 2)
    """In radians for arcface, in units of the cosine for cosface. None: the paper's 0.45 and 0.35."""
    scale: float = Field(default=64.0, gt=0.0)
    """What cosines are multiplied with to become logits."""

    def build(self, context: LossContext) -> AdaDistill:
        """Builds the loss, without any centre yet.

        Raises:
            ValueError: If the number of classes is not known.
        """
        if context.num_classes is None:
            raise ValueError("num_classes must be given to a loss that needs labels, got None")
        return AdaDistill(
            num_classes=context.num_classes,
            embedding_dim=context.teacher_dim,
            alpha=self.alpha,
            margin_type=self.margin_type,
            margin=PUBLISHED_MARGIN[self.margin_type] if self.margin is None else self.margin,
            scale=self.scale,
        )


def _is_met(centre_ND: Tensor) -> Tensor:
    return centre_ND.any(dim=1)
