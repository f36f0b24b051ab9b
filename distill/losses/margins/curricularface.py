"""CurricularFace: hard classes count less at first and more the better the student gets.

Huang et al., "CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition", CVPR 2020.
https://arxiv.org/abs/2004.00288

B: this worker's share of the batch, C: classes
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from distill.losses.angles import widened
from distill.losses.gather import gather
from distill.losses.margins.base import Margin, MarginSettings, target_cosine, with_target


class CurricularFace(Margin):
    """The target's logit is s cos(theta + m); another class's that scores above it s cos_j (t + cos_j).

    t, the running mean of the target cosines, starts at 0, and the batch at hand counts already. Classes that
    score below the target keep s cos_j. No gradient reaches t.

    Args:
        margin: m, in radians.
        t_alpha: Share of the newest batch in t, in (0, 1].
    """

    t: Tensor

    def __init__(self, *, scale: float = 64.0, margin: float = 0.5, t_alpha: float = 0.01):
        super().__init__(scale=scale)
        self.margin = margin
        self.t_alpha = t_alpha
        self.register_buffer("t", torch.tensor(0.0))

    def forward(self, cosine_BC: Tensor, labels_B: Tensor, *, norm_B: Tensor) -> Tensor:
        del norm_B
        own_B = target_cosine(cosine_BC, labels_B)
        if self.training:
            self.t.lerp_(gather(own_B).mean().to(self.t.dtype), self.t_alpha)
        target_B = widened(own_B, self.margin)
        is_hard_BC = cosine_BC > target_B[:, None]
        weighted_BC = torch.where(is_hard_BC, cosine_BC * (self.t + cosine_BC), cosine_BC)
        return self.scale * with_target(weighted_BC, labels_B, target_B)


class CurricularFaceSettings(MarginSettings):
    """Classes that score above a face's own count less at first and more the better the student gets."""

    name: Literal["curricularface"] = "curricularface"
    margin: float = Field(default=0.5, ge=0.0, le=1.5)
    """The angle that is added for every face, in radians."""
    t_alpha: float = Field(default=0.01, gt=0.0, le=1.0)
    """Share of the newest batch in the running mean of the target cosines."""

    def build(self) -> CurricularFace:
        return CurricularFace(scale=self.scale, margin=self.margin, t_alpha=self.t_alpha)
