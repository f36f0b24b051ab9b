"""Feature similarity distillation: a student of blurred faces builds the maps that the teacher sees sharply.

Shin et al., "Enhancing Low-Resolution Face Recognition with Feature Similarity Knowledge Distillation", 2023.
https://arxiv.org/abs/2303.04681

B: batch; K, H, W: channels, height and width of a feature map
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from distill.losses.base import DistillationLoss, LossContext, LossSettings, Need
from distill.losses.embedding import cosine
from distill.losses.feature_maps import at_smaller_size, paired_from_last
from distill.outputs import ModelOutputs


class FSKD(DistillationLoss):
    """Mean over stages, paired from the last backwards, and over the batch of one minus the cosine of maps.

    A map is compared as one long vector, at the smaller size of the two. Where the channels of a pair differ
    in number, a 1x1 convolution with BN, trained along, turns the student's into the teacher's.
    """

    def __init__(self, channels: list[tuple[int, int]]):
        """Takes the channels of the student's and the teacher's map of each pair of stages."""
        super().__init__()
        self.bridges = nn.ModuleList(_bridge(student, teacher) for student, teacher in channels)

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        del labels_B
        pairs = paired_from_last(student.maps, teacher.maps)
        return torch.stack(
            [
                _map_distance(bridge, student_BKHW, teacher_BKHW)
                for bridge, (student_BKHW, teacher_BKHW) in zip(self.bridges, pairs, strict=True)
            ]
        ).mean()


class FSKDSettings(LossSettings):
    """Directions of whole feature maps, stage by stage."""

    needs: ClassVar[frozenset[Need]] = frozenset({"paired_views", "feature_maps"})
    reaches_embedding: ClassVar[bool] = False

    weight: float = Field(default=20.0, ge=0.0)
    """What the loss is multiplied with, on the mean over stages. 0 leaves it out."""

    def build(self, context: LossContext) -> FSKD:
        """Builds the loss.

        Raises:
            ValueError: If a network has no stage.
        """
        shapes = paired_from_last(context.student_maps, context.teacher_maps)
        return FSKD([(student_KHW[0], teacher_KHW[0]) for student_KHW, teacher_KHW in shapes])


def _bridge(student_channels: int, teacher_channels: int) -> nn.Module:
    if student_channels == teacher_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(student_channels, teacher_channels, 1, bias=False), nn.BatchNorm2d(teacher_channels)
    )


def _map_distance(bridge: nn.Module, student_BKHW: Tensor, teacher_BKHW: Tensor) -> Tensor:
    student_BKHW, teacher_BKHW = at_smaller_size(student_BKHW, teacher_BKHW)
    return cosine(bridge(student_BKHW).flatten(1), teacher_BKHW.flatten(1))
