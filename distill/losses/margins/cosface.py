"""CosFace: the same number is taken off every face's target cosine.

Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018.
https://arxiv.org/abs/1801.09414

B: this worker's share of the batch, C: classes
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from distill.losses.margins.base import Margin, MarginSettings, target_cosine, with_target


class CosFace(Margin):
    """The target's logit is s (cos(theta) - m), the others' s cos(theta)."""

    def __init__(self, *, scale: float = 64.0, margin: float = 0.35):
        super().__init__(scale=scale)
        self.margin = margin

    def forward(self, cosine_BC: Tensor, labels_B: Tensor, *, norm_B: Tensor) -> Tensor:
        del norm_B
        target_B = target_cosine(cosine_BC, labels_B) - self.margin
        return self.scale * with_target(cosine_BC, labels_B, target_B)


class CosFaceSettings(MarginSettings):
    """The same number is taken off every face's target cosine."""

    name: Literal["cosface"] = "cosface"
    margin: float = Field(default=0.35, ge=0.0, le=1.0)
    """How much less the target's cosine counts. 0.35 is common on clean faces, 0.4 on web-scale ones."""

    def build(self) -> CosFace:
        return CosFace(scale=self.scale, margin=self.margin)
