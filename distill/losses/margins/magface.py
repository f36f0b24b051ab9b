"""MagFace: the longer an embedding, the wider its margin; and embeddings are asked to be long.

Meng et al., "MagFace: A Universal Representation for Face Recognition and Quality Assessment", CVPR 2021.
https://arxiv.org/abs/2103.06627

B: this worker's share of the batch, C: classes
"""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from distill.losses.angles import widened
from distill.losses.margins.base import Margin, MarginSettings, target_cosine, with_target


class MagFace(Margin):
    """The target's logit is s cos(theta + m(a)): the margin grows linearly with a, the embedding's norm.

    A face that is easy to tell can afford a longer embedding, which the regulariser rewards; the margin makes
    that expensive for a face that is not. The norm thus becomes a measure of quality.

    Args:
        l_a: Norms below count as this one, and get no gradient.
        u_a: Norms above count as this one, and get no gradient.
        l_m: Margin at `l_a`, in radians.
        u_m: Margin at `u_a`, in radians.
        lambda_g: Weight of the regulariser.
    """

    def __init__(
        self,
        *,
        scale: float = 64.0,
        l_a: float = 10.0,
        u_a: float = 110.0,
        l_m: float = 0.45,
        u_m: float = 0.8,
        lambda_g: float = 35.0,
    ):
        super().__init__(scale=scale)
        self.l_a = l_a
        self.u_a = u_a
        self.l_m = l_m
        self.u_m = u_m
        self.lambda_g = lambda_g

    def forward(self, cosine_BC: Tensor, labels_B: Tensor, *, norm_B: Tensor) -> Tensor:
        slope = (self.u_m - self.l_m) / (self.u_a - self.l_a)
        margin_B = self.l_m + slope * (norm_B.clamp(self.l_a, self.u_a) - self.l_a)
        target_B = widened(target_cosine(cosine_BC, labels_B), margin_B)
        return self.scale * with_target(cosine_BC, labels_B, target_B)

    def regularizer(self, norm_B: Tensor) -> Tensor:
        """lambda_g times the mean of a / u_a^2 + 1 / a, which falls with a up to `u_a`."""
        norm_B = norm_B.clamp(self.l_a, self.u_a)
        return self.lambda_g * (norm_B / self.u_a**2 + 1 / norm_B).mean()


class MagFaceSettings(MarginSettings):
    """The longer an embedding, the wider its margin; and embeddings are asked to be long."""

    name: Literal["magface"] = "magface"
    l_a: float = Field(default=10.0, gt=0.0)
    """Norm from which the margin widens. Shorter embeddings count as this long."""
    u_a: float = Field(default=110.0, gt=0.0)
    """Norm up to which the margin widens. Longer embeddings count as this long."""
    l_m: float = Field(default=0.45, ge=0.0, le=1.5)
    """Margin at `l_a`, in radians."""
    u_m: float = Field(default=0.8, ge=0.0, le=1.5)
    """Margin at `u_a`, in radians."""
    lambda_g: float = Field(default=35.0, ge=0.0)
    """Weight of what asks embeddings to be long."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.l_a >= self.u_a:
            raise ValueError(f"u_a must be above l_a ({self.l_a}), got {self.u_a}")
        if self.l_m > self.u_m:
            raise ValueError(f"u_m must be at least l_m ({self.l_m}), got {self.u_m}")
        return self

    def build(self) -> MagFace:
        return MagFace(
            scale=self.scale, l_a=self.l_a, u_a=self.u_a, l_m=self.l_m, u_m=self.u_m, lambda_g=self.lambda_g
        )
