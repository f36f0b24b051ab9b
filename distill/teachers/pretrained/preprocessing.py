"""What a network of others wants of a face, and the step that gives it that.

Everywhere in this project faces are RGB in [-1, 1]. Pixels here count from 0 to 255, as model cards do.

B: batch, H: side of the image
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from distill.settings import Settings

ColorOrder = Literal["RGB", "BGR"]
Mean = float | tuple[float, float, float]
Std = PositiveFloat | tuple[PositiveFloat, PositiveFloat, PositiveFloat]
Side = Annotated[int, Field(ge=16, le=512)]


class Facts(Settings):
    """What must be known of a network before it can teach. Unset: what its family or its file tells."""

    color_order: ColorOrder | None = None
    """Order of the channels that it was trained on."""
    mean: Mean | None = None
    """What is taken from a pixel, in [0, 255]; one number, or one a channel in the network's order."""
    std: Std | None = None
    """What a pixel is divided by after that: 127.5 gives [-1, 1]."""
    size_px: Side | None = None
    """Side of its images."""
    embedding_dim: PositiveInt | None = None
    """Width of its embedding."""
    bn_eps: PositiveFloat | None = None
    """What its batch normalisations add to the variance. No file tells, and a wrong one is not noticed."""

    def over(self, known: "Facts") -> "Facts":
        """These facts, and those of `known` where these say nothing."""
        return known.model_copy(update=self.model_dump(exclude_none=True))


class Preprocessing(Settings):
    """How a face becomes what a network was trained on."""

    color_order: ColorOrder
    """Order of the channels."""
    mean: Mean
    """What is taken from a pixel, in [0, 255]; one number, or one a channel in the network's order."""
    std: Std
    """What a pixel is divided by after that."""
    size_px: Side
    """Side of the image."""


class Preprocessed(nn.Module):
    """A network behind its preprocessing.

    A pixel of x in [-1, 1] is 127.5 (x + 1), so that (pixel - mean) / std is one multiplication and one
    addition. Steps that would change nothing are left out.

    Args:
        network: Maps images of shape (B, 3, H, H), as it was trained on them, to (B, D).
        preprocessing: What it was trained on.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing):
        super().__init__()
        self.network = network
        self.stage_names = tuple(f"network.{name}" for name in getattr(network, "stage_names", ()))
        mean, std = (
            torch.tensor(value, dtype=torch.float64).reshape(-1, 1, 1)
            for value in (preprocessing.mean, preprocessing.std)
        )
        self.register_buffer("scale", (127.5 / std).float(), persistent=False)
        self.register_buffer("shift", ((127.5 - mean) / std).float(), persistent=False)
        self._flips = preprocessing.color_order == "BGR"
        self._scales = bool((self.scale != 1).any())
        self._shifts = bool((self.shift != 0).any())

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H), RGB in [-1, 1], as raw embeddings of shape (B, D)."""
        if self._flips:
            images = images.flip(1)
        if self._shifts:
            images = torch.addcmul(self.shift, self.scale, images)
        elif self._scales:
            images = images * self.scale
        return self.network(images)
