"""AdaFace: faces of high quality are pressed where they are hard, faces of low quality where they are easy.

Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022. https://arxiv.org/abs/2204.00964

B: this worker's share of the batch, N: the whole batch, C: classes
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from distill.losses.angles import widened
from distill.losses.gather import gather
from distill.losses.margins.base import Margin, MarginSettings, target_cosine, with_target

MIN_NORM, MAX_NORM = 1e-3, 100.0
EPS = 1e-3
"""Keeps a quality finite where all norms are one."""


class AdaFace(Margin):
    """The target's logit is s (cos(theta + g_angle) - g_add), with g_angle = -m k and g_add = m + m k.

    The quality k = h (norm - mean) / std, clipped to [-1, 1], says how the norm of a face's raw embedding
    compares with recent batches: k = -1 makes the margin ArcFace's m, k = 0 CosFace's m. No gradient reaches
    the norm.

    Args:
        margin: m.
        h: The paper's concentration: k is clipped beyond 1 / h standard deviations. 0 leaves CosFace.
        t_alpha: Share of the newest batch in the running mean and standard deviation, in (0, 1].
    """

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(self, *, scale: float = 64.0, margin: float = 0.4, h: float = 0.333, t_alpha: float = 0.01):
        super().__init__(scale=scale)
        self.margin = margin
        self.h = h
        self.t_alpha = t_alpha
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_std", torch.tensor(100.0))

    def forward(self, cosine_BC: Tensor, labels_B: Tensor, *, norm_B: Tensor) -> Tensor:
        norm_B = norm_B.detach().clamp(MIN_NORM, MAX_NORM)
        if self.training:
            self._follow(gather(norm_B))
        quality_B = (self.h * (norm_B - self.norm_mean) / (self.norm_std + EPS)).clamp(-1, 1)
        turned_B = widened(target_cosine(cosine_BC, labels_B), -self.margin * quality_B)
        target_B = turned_B - (self.margin + self.margin * quality_B)
        return self.scale * with_target(cosine_BC, labels_B, target_B)

    def _follow(self, norm_N: Tensor) -> None:
        norm_N = norm_N.to(self.norm_mean.dtype)
        self.norm_mean.lerp_(norm_N.mean(), self.t_alpha)
        if len(norm_N) > 1:
            self.norm_std.lerp_(norm_N.std(), self.t_alpha)


class AdaFaceSettings(MarginSettings):
    """How the margin is spent depends on a face's quality, which the norm of its embedding tells."""

    name: Literal["adaface"] = "adaface"
    margin: float = Field(default=0.4, ge=0.0, le=1.0)
    """The paper's m: the largest angle, in radians, and half the most that is taken off a cosine."""
    h: float = Field(default=0.333, ge=0.0)
    """The paper's h: how much a standard deviation of the norm says about quality. 0: nothing, CosFace."""
    t_alpha: float = Field(default=0.01, gt=0.0, le=1.0)
    """Share of the newest batch in the running mean and standard deviation of the norms."""

    def build(self) -> AdaFace:
        return AdaFace(scale=self.scale, margin=self.margin, h=self.h, t_alpha=self.t_alpha)
