"""Attention similarity distillation: a student of blurred faces looks where the teacher of sharp ones looks.

Shin et al., "Teaching Where to Look: Attention Similarity Knowledge Distillation for Low Resolution Face
Recognition", ECCV 2022. https://arxiv.org/abs/2209.14498

The paper compares the attention maps of CBAM blocks (Woo et al., "CBAM", ECCV 2018,
https://arxiv.org/abs/1807.06521), which pool a feature map by mean and by maximum, pass both through learned
layers, add them up and take the sigmoid. Our students and teachers have no such blocks, and blocks that only
this loss trained could satisfy it without the networks' help. So the learned layers are left out: attention
is the sigmoid of mean plus maximum, a function of the feature map alone. The published scores are not to be
expected of this stand-in.

B: batch; K, H, W: channels, height and width of a feature map
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from distill.losses.base import DistillationLoss, LossContext, LossSettings, Need
from distill.losses.embedding import cosine
from distill.losses.feature_maps import at_smaller_size, paired_from_last
from distill.outputs import ModelOutputs


def channel_attention(map_BKHW: Tensor) -> Tensor:
    """Which channels count, in (0, 1), of shape (B, K): each one's mean and maximum over all positions."""
    return (map_BKHW.mean(dim=(2, 3)) + map_BKHW.amax(dim=(2, 3))).sigmoid()


def spatial_attention(map_BKHW: Tensor) -> Tensor:
    """Which positions count, in (0, 1), of shape (B, 1, H, W): each one's mean and maximum over channels."""
    return (map_BKHW.mean(dim=1, keepdim=True) + map_BKHW.amax(dim=1, keepdim=True)).sigmoid()


def attention_distance(student_BKHW: Tensor, teacher_BKHW: Tensor) -> Tensor:
    """One minus the cosine of spatial attentions, batch mean, plus that of channel attentions, in [0, 2].

    Spatial attentions are compared at the smaller size of the two. Channel attentions are left out where the
    numbers of channels differ: there is no telling which belong together.
    """
    student_B1HW, teacher_B1HW = at_smaller_size(
        spatial_attention(student_BKHW), spatial_attention(teacher_BKHW)
    )
    distance = cosine(student_B1HW.flatten(1), teacher_B1HW.flatten(1))
    if student_BKHW.shape[1] == teacher_BKHW.shape[1]:
        distance = distance + cosine(channel_attention(student_BKHW), channel_attention(teacher_BKHW))
    return distance


class ASKD(DistillationLoss):
    """Sum of `attention_distance` over stages, paired from the last backwards."""

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        del labels_B
        pairs = paired_from_last(student.maps, teacher.maps)
        return torch.stack([attention_distance(*pair) for pair in pairs]).sum()


class ASKDSettings(LossSettings):
    """Where in the face, and on which channels, the networks look, stage by stage."""

    needs: ClassVar[frozenset[Need]] = frozenset({"paired_views", "feature_maps"})
    reaches_embedding: ClassVar[bool] = False

    weight: float = Field(default=5.0, ge=0.0)
    """What the loss is multiplied with, on the sum over attention maps. 0 leaves it out."""

    def build(self, context: LossContext) -> ASKD:
        """Builds the loss.

        Raises:
            ValueError: If a network has no stage.
        """
        paired_from_last(context.student_maps, context.teacher_maps)
        return ASKD()
