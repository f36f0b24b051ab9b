"""What every teacher is: a frozen network that embeds faces of any size.

B: batch, D: width of the embedding, H: side of the image
"""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Teacher(nn.Module):
    """A frozen embedder. It stays in eval mode and its weights take no gradient, whatever is asked of it.

    Args:
        network: Maps faces of shape (B, 3, `input_px`, `input_px`), RGB in [-1, 1], to (B, D).
        name: Whom the student imitates, for the record.
        embedding_dim: D.
        input_px: Side of the faces that the network was trained on.
        digest: SHA-256 of the file of weights; of the members' digests, where there are several.
        card: What is known about the teacher: its data, recipe and accuracy.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        embedding_dim: int,
        input_px: int,
        digest: str,
        card: dict[str, Any],
    ):
        super().__init__()
        self.network = network.requires_grad_(False)
        self.name, self.embedding_dim, self.input_px = name, embedding_dim, input_px
        self.digest, self.card = digest, card
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: a teacher's batch statistics never move."""
        del mode
        return super().train(False)

    @property
    def stages(self) -> nn.Module:
        """The network whose stages losses on feature maps look at: what an adapter stands on, where there is
        one."""
        return self.network[0] if isinstance(self.network, nn.Sequential) else self.network

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H) in [-1, 1] as raw embeddings of shape (B, D).

        Faces of another size than `input_px` are resized bilinearly, with antialiasing.
        """
        if images.shape[-1] != self.input_px:
            size = (self.input_px, self.input_px)
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        return self.network(images)
