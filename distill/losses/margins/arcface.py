"""ArcFace: the same angle is added for every face.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019.
https://arxiv.org/abs/1801.07698

B: this worker's share of the batch, C: classes
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from distill.losses.angles import widened
from distill.losses.margins.base import Margin, MarginSettings, target_cosine, with_target


class ArcFace(Margin):
    """The target's logit is s cos(theta + m), the others' s cos(theta)."""

    def __init__(self, *, scale: float = 64.0, margin: float = 0.5):
        super().__init__(scale=scale)
        self.margin = margin

    def forward(self, cosine_BC: Tensor, labels_B: Tensor, *, norm_B: Tensor) -> Tensor:
        del norm_B
        target_B = widened(target_cosine(cosine_BC, labels_B), self.margin)
        return self.scale * with_target(cosine_BC, labels_B, target_B)


class ArcFaceSettings(MarginSettings):
    """The same angle is added for every face."""

    name: Literal["arcface"] = "arcface"
    margin: float = Field(default=0.5, ge=0.0, le=1.5)
    """The angle, in radians."""

    def build(self) -> ArcFace:
        return ArcFace(scale=self.scale, margin=self.margin)
