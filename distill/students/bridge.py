"""The student of Bridge Distillation: six convolutions, small enough for a phone's idle corner.

Ge et al., "Efficient Low-Resolution Face Recognition via Bridge Distillation", IEEE TIP 2020.
https://arxiv.org/abs/2409.11786

The paper gives the budget (0.21 M parameters), not the layers: these are ours. Faces are taken at their
native size, never enlarged, which is where the speed comes from.
"""

from typing import Literal

from torch import Tensor, nn

from distill.students.base import StudentSettings, initialize
from distill.students.prelu import PReLU

WIDTHS = (32, 32, 64, 64, 96, 96)
STRIDES = (1, 2, 1, 2, 1, 2)


class BridgeTiny(nn.Module):
    """3x3 convolutions without bias, each with BN and PReLU, then a global average pool and a linear head.

    217,184 parameters with D = 128. The pool makes the network blind to the image's size.
    """

    stage_names = ("features.2", "features.8", "features.14", "features.17")

    def __init__(self, *, embedding_dim: int):
        super().__init__()
        layers: list[nn.Module] = []
        for in_width, width, stride in zip((3, *WIDTHS[:-1]), WIDTHS, STRIDES, strict=True):
            layers += [
                nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                PReLU(width),
            ]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(WIDTHS[-1], embedding_dim)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H) in [-1, 1] as raw embeddings of shape (B, D)."""
        return self.fc(self.features(images).mean(dim=(2, 3)))


class BridgeTinySettings(StudentSettings):
    """The smallest student: 0.217 M parameters with D = 128, at any size of face."""

    name: Literal["bridge_tiny"] = "bridge_tiny"

    def build(self, *, embedding_dim: int, size_px: int) -> BridgeTiny:
        del size_px  # the pool takes any
        return BridgeTiny(embedding_dim=embedding_dim)
