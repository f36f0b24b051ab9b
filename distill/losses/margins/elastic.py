"""ElasticFace: every face of every batch gets a margin of its own, drawn around a mean.

Boutros et al., "ElasticFace: Elastic Margin Loss for Deep Face Recognition", CVPR Workshops 2022.
https://arxiv.org/abs/2109.09416

B: this worker's share of the batch, N: the whole batch, C: classes
"""

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from distill.losses.angles import widened
from distill.losses.gather import gather, num_workers, worker_rank
from distill.losses.margins.base import Margin, MarginSettings, target_cosine, with_target

FIRST_SEED = 2_109_094_160
"""Batch k draws its margins from seed `FIRST_SEED + k`."""


class Elastic(Margin):
    """Margins m_i ~ N(margin, sigma), drawn anew in training and not clipped; in evaluation all are `margin`.

    They follow from how many batches came before and from the size of the whole batch alone: torch's random
    stream stays where it is, and each worker takes the rows of its faces.

    Args:
        sigma: Standard deviation of the margins, in their unit.
        hardest_first: The paper's + form: of the margins drawn for a batch the largest goes to the face of
            the lowest target cosine, the next largest to the next lowest, and so on.
    """

    step: Tensor

    def __init__(self, *, scale: float, margin: float, sigma: float, hardest_first: bool):
        super().__init__(scale=scale)
        self.margin = margin
        self.sigma = sigma
        self.hardest_first = hardest_first
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, cosine_BC: Tensor, labels_B: Tensor, *, norm_B: Tensor) -> Tensor:
        del norm_B
        target_B = target_cosine(cosine_BC, labels_B)
        if self.training:
            margin_B = self._drawn(target_B)
            self.step += 1
        else:
            margin_B = torch.full_like(target_B, self.margin)
        return self.scale * with_target(cosine_BC, labels_B, self.harder(target_B, margin_B))

    @abstractmethod
    def harder(self, target_B: Tensor, margin_B: Tensor) -> Tensor:
        """Target cosines after their margins."""

    def _drawn(self, target_B: Tensor) -> Tensor:
        """This worker's rows of the margins drawn for the whole batch."""
        rng = torch.Generator().manual_seed(FIRST_SEED + int(self.step))
        standard_N = torch.randn(len(target_B) * num_workers(), generator=rng)
        margin_N = (self.margin + self.sigma * standard_N).to(target_B)
        if self.hardest_first:
            hardest_first_N = gather(target_B).argsort(stable=True)
            margin_N = torch.empty_like(margin_N).scatter(
                0, hardest_first_N, margin_N.sort(descending=True).values
            )
        first = worker_rank() * len(target_B)
        return margin_N[first : first + len(target_B)]


class ElasticArc(Elastic):
    """The target's logit is s cos(theta + m_i): ArcFace with drawn angles."""

    def harder(self, target_B: Tensor, margin_B: Tensor) -> Tensor:
        return widened(target_B, margin_B)


class ElasticCos(Elastic):
    """The target's logit is s (cos(theta) - m_i): CosFace with drawn margins."""

    def harder(self, target_B: Tensor, margin_B: Tensor) -> Tensor:
        return target_B - margin_B


class ElasticArcSettings(MarginSettings):
    """An angle of its own is added for every face."""

    name: Literal["elastic_arc"] = "elastic_arc"
    margin: float = Field(default=0.5, ge=0.0, le=1.0)
    """Mean of the angles, in radians."""
    sigma: float = Field(default=0.05, ge=0.0, le=0.1)
    """Standard deviation of the angles, in radians."""

    def build(self) -> ElasticArc:
        return ElasticArc(scale=self.scale, margin=self.margin, sigma=self.sigma, hardest_first=False)


class ElasticArcPlusSettings(MarginSettings):
    """An angle of its own is added for every face, the largest for the face furthest from its centre."""

    name: Literal["elastic_arc_plus"] = "elastic_arc_plus"
    margin: float = Field(default=0.5, ge=0.0, le=1.0)
    """Mean of the angles, in radians."""
    sigma: float = Field(default=0.0175, ge=0.0, le=0.1)
    """Standard deviation of the angles, in radians."""

    def build(self) -> ElasticArc:
        return ElasticArc(scale=self.scale, margin=self.margin, sigma=self.sigma, hardest_first=True)


class ElasticCosSettings(MarginSettings):
    """A number of its own is taken off every face's target cosine."""

    name: Literal["elastic_cos"] = "elastic_cos"
    margin: float = Field(default=0.35, ge=0.0, le=1.0)
    """Mean of what is taken off."""
    sigma: float = Field(default=0.05, ge=0.0, le=0.1)
    """Standard deviation of what is taken off."""

    def build(self) -> ElasticCos:
        return ElasticCos(scale=self.scale, margin=self.margin, sigma=self.sigma, hardest_first=False)


class ElasticCosPlusSettings(MarginSettings):
    """A number of its own is taken off every face's target cosine, the largest off the lowest cosine."""

    name: Literal["elastic_cos_plus"] = "elastic_cos_plus"
    margin: float = Field(default=0.35, ge=0.0, le=1.0)
    """Mean of what is taken off."""
    sigma: float = Field(default=0.02, ge=0.0, le=0.1)
    """Standard deviation of what is taken off."""

    def build(self) -> ElasticCos:
        return ElasticCos(scale=self.scale, margin=self.margin, sigma=self.sigma, hardest_first=True)
