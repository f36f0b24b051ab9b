"""Random changes of training faces: a crop, its colours, a grey rectangle.

Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022,
https://arxiv.org/abs/2204.00964, crops and jitters each face with a probability of 0.2. Zhong et al., "Random
Erasing Data Augmentation", AAAI 2020, https://arxiv.org/abs/1708.04896.

B: batch, H: side of the faces, K: random numbers of a face
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill.settings import Settings

NUM_DRAWS = 13
LUMA = (0.299, 0.587, 0.114)
"""How much red, green and blue count in the grey of ITU-R BT.601."""
LARGEST_RATIO = 1 / 0.3
"""Of a rectangle's height to its width; the smallest is its inverse."""


class AugmentationSettings(Settings):
    """How strongly training faces are changed, beside mirroring. As it stands, not at all."""

    seen_by: Literal["student", "both"] = "student"
    """student: the teacher sees the face as it was, and its embedding cache serves on. both: the teacher
    sees what the student sees. Nothing can be cached then: the teacher embeds every batch anew, and class
    centres stay those of the faces as they were."""
    probability: float = Field(default=1.0, gt=0.0, le=1.0)
    """How likely each of crop, colours and rectangle is, a face; 0.2 in AdaFace."""
    least_area: float = Field(default=1.0, gt=0.0, le=1.0)
    """Smallest share of a face's area that a crop leaves, which is enlarged again. 1: nothing is cropped."""
    brightness: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Brightness is multiplied by up to this much more or less than 1."""
    contrast: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The distance of pixels to the face's mean grey is, likewise."""
    saturation: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The distance of pixels to their own grey is, likewise."""
    erased_area: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest share of a face's area that a grey rectangle covers; about 0.4 in Random Erasing."""

    @property
    def is_on(self) -> bool:
        """Whether any face is changed."""
        return self.least_area < 1 or self._jitters or self.erased_area > 0

    @property
    def reaches_teacher(self) -> bool:
        """Whether the teacher sees faces that are changed, and never the same way twice."""
        return self.is_on and self.seen_by == "both"

    @property
    def _jitters(self) -> bool:
        return max(self.brightness, self.contrast, self.saturation) > 0

    def draw(self, num_faces: int, generator: torch.Generator) -> Tensor:
        """What `apply` changes faces by: numbers in [0, 1), of shape (B, K), a row a face.

        A worker draws for the whole batch and keeps its own rows.
        """
        return torch.rand(num_faces, NUM_DRAWS, generator=generator)

    def apply(self, images: Tensor, draw_BK: Tensor) -> Tensor:
        """Changes each face by its own row of `draw`, whatever else the batch holds.

        Args:
            images: Faces in [-1, 1], of shape (B, 3, H, H).

        Returns:
            Others, likewise.
        """
        draw_BK = draw_BK.to(images.device)
        crops_B, jitters_B, erases_B = (draw_BK[:, :3] < self.probability).T
        area_B, left_B, top_B, brightness_B, contrast_B, saturation_B, *rectangle = draw_BK[:, 3:].T
        if self.least_area < 1:
            kept_B = self.least_area + (1 - self.least_area) * area_B
            images = _where(crops_B, _cropped(images, kept_B, left_B, top_B), images)
        if self._jitters:
            changed = (images + 1) / 2
            if self.brightness:
                changed = _blended(
                    changed, torch.zeros_like(changed), self._factor(self.brightness, brightness_B)
                )
            if self.contrast:
                # In float64, where the order of the sum is lost in the rounding.
                mean = _grey(changed).double().mean((1, 2, 3), keepdim=True).to(changed.dtype)
                changed = _blended(changed, mean, self._factor(self.contrast, contrast_B))
            if self.saturation:
                changed = _blended(changed, _grey(changed), self._factor(self.saturation, saturation_B))
            images = _where(jitters_B, changed * 2 - 1, images)
        if self.erased_area:
            images = _where(
                erases_B, images.masked_fill(self._rectangle(images.shape[-1], *rectangle), 0), images
            )
        return images

    def _factor(self, strength: float, draw_B: Tensor) -> Tensor:
        return 1 + strength * (2 * draw_B - 1)

    def _rectangle(
        self, size_px: int, area_B: Tensor, ratio_B: Tensor, left_B: Tensor, top_B: Tensor
    ) -> Tensor:
        """Which pixels are covered, bool, of shape (B, 1, H, H)."""
        area_B = self.erased_area * area_B
        ratio_B = torch.exp((2 * ratio_B - 1) * math.log(LARGEST_RATIO))
        rows_BH = _covered(size_px, (area_B * ratio_B).sqrt().clamp(max=1), top_B)
        columns_BH = _covered(size_px, (area_B / ratio_B).sqrt().clamp(max=1), left_B)
        return (rows_BH[:, :, None] & columns_BH[:, None, :]).unsqueeze(1)


def _cropped(images: Tensor, area_B: Tensor, left_B: Tensor, top_B: Tensor) -> Tensor:
    """Squares of a share of each face's area, anywhere in it, enlarged to its side."""
    side_B, centre_H = area_B.sqrt(), _centres(images.shape[-1], images.device)
    x_BH, y_BH = (
        start_B[:, None] * (1 - side_B[:, None]) + side_B[:, None] * centre_H for start_B in (left_B, top_B)
    )
    size = (len(images), len(centre_H), len(centre_H))
    grid = torch.stack([x_BH[:, None, :].expand(size), y_BH[:, :, None].expand(size)], dim=-1)
    return F.grid_sample(images, 2 * grid - 1, mode="bilinear", padding_mode="border", align_corners=False)


def _covered(size_px: int, share_B: Tensor, start_B: Tensor) -> Tensor:
    """Which pixels of a side lie in a stretch of it, bool, of shape (B, H)."""
    begin_B1 = (start_B * (1 - share_B))[:, None]
    centre_H = _centres(size_px, share_B.device)
    return (centre_H >= begin_B1) & (centre_H < begin_B1 + share_B[:, None])


def _centres(size_px: int, device: torch.device) -> Tensor:
    """Where the centres of a side's pixels are, in (0, 1), of shape (H,)."""
    return (torch.arange(size_px, device=device) + 0.5) / size_px


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)


def _blended(images: Tensor, reference: Tensor, factor_B: Tensor) -> Tensor:
    """Pixels in [0, 1] at `factor_B` times their distance from a reference."""
    return (reference + factor_B[:, None, None, None] * (images - reference)).clamp(0, 1)


def _where(chosen_B: Tensor, changed: Tensor, images: Tensor) -> Tensor:
    return torch.where(chosen_B[:, None, None, None], changed, images)
