"""What a network is that comes as a file.

It maps faces of shape (B, 3, H, H), RGB in [-1, 1], to raw embeddings of shape (B, D), on the device of the
faces, and learns nothing. A graph may want its input as (B, H, H, 3) instead, and as uint8: then it is given
pixels in 0..255, and normalises them itself.

B: batch, D: width of the embedding, H: side of the image
"""

import re
from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import InputError
from distill.faces.pixels import as_bytes


class GraphNetwork(nn.Module, ABC):
    """A network whose file says which faces it takes.

    Attributes:
        path: Its file.
        input_px: H; None where it takes any.
        embedding_dim: D; None where the file does not say.
        metadata: What the file says of itself, by name.
    """

    path: Path
    input_px: int | None
    embedding_dim: int | None
    metadata: dict[str, str]
    _fixed_batch: int | None
    _takes_bytes: bool
    _channels_last: bool

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H) in [-1, 1] as raw embeddings of shape (B, D).

        Raises:
            InputError: If the network does not take such images, or does not give one embedding for each.
        """
        px = self.input_px or images.shape[-1]
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, px, px):
            raise InputError(
                f"{self.path} takes images of shape (B, 3, {px}, {px}), got {tuple(images.shape)}"
            )
        parts = images.detach().split(self._fixed_batch or len(images))
        embedding_BD = torch.cat([self._embed_part(part) for part in parts])
        if embedding_BD.ndim != 2 or len(embedding_BD) != len(images):
            raise InputError(
                f"{self.path} must give one embedding for each of {len(images)} faces, "
                f"got an output of shape {tuple(embedding_BD.shape)}"
            )
        return embedding_BD

    def _embed_part(self, images: Tensor) -> Tensor:
        """Embeds up to `_fixed_batch` faces: a graph that wants more is given blank ones."""
        missing = (self._fixed_batch or len(images)) - len(images)
        pixels = as_bytes(images) if self._takes_bytes else images.float()
        pixels = F.pad(pixels, (0, 0) * 3 + (0, missing))
        return self._run(pixels.permute(0, 2, 3, 1) if self._channels_last else pixels)[: len(images)]

    def _read_shape(self, batch: int | None, face: list[int | None]) -> bool:
        """Takes note of the input's shape; whether it is one of faces."""
        self._channels_last = face[2] == 3 and face[0] != 3
        channels, height, width = (face[2], face[0], face[1]) if self._channels_last else face
        self._fixed_batch, self.input_px = batch, height
        return channels in (3, None) and height == width

    @abstractmethod
    def _run(self, pixels: Tensor) -> Tensor:
        """The graph's output for a batch as it takes it.

        Raises:
            InputError: If the graph fails.
        """


def reason(error: Exception) -> str:
    """The first line of an error, without onnxruntime's own preamble."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .* failed:)?", "", line)
