"""GhostFaceNet V1: half of its channels are cheap copies of the other half.

Alansari et al., "GhostFaceNets: Lightweight Face Recognition Model From Cheap Operations", IEEE Access 2023.
https://doi.org/10.1109/ACCESS.2023.3266068
Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020. https://arxiv.org/abs/1911.11907

The layers are those of the authors' Keras code with a stem of stride 2 (GhostFaceNetV1-2). Its last
bottleneck has 512 hidden channels, where GhostNet and PyTorch ports of this network have 960.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from distill.students.base import StudentSettings, initialize, map_size, stage_strides
from distill.students.mobilefacenet import conv_block
from distill.students.prelu import PReLU


class Bottleneck(NamedTuple):
    """One row of the layer table, at width 1."""

    kernel: int
    hidden: int
    width: int
    gated: bool = False
    halves: bool = False


BOTTLENECKS = (
    Bottleneck(3, 16, 16),
    Bottleneck(3, 48, 24, halves=True),
    Bottleneck(3, 72, 24),
    Bottleneck(5, 72, 40, gated=True, halves=True),
    Bottleneck(5, 120, 40, gated=True),
    Bottleneck(3, 240, 80, halves=True),
    Bottleneck(3, 200, 80),
    Bottleneck(3, 184, 80),
    Bottleneck(3, 184, 80),
    Bottleneck(3, 480, 112, gated=True),
    Bottleneck(3, 672, 112, gated=True),
    Bottleneck(5, 672, 160, gated=True, halves=True),
    Bottleneck(5, 960, 160),
    Bottleneck(5, 960, 160, gated=True),
    Bottleneck(5, 960, 160),
    Bottleneck(5, 512, 160, gated=True),
)
STEM_WIDTH = 16
TAIL_WIDTH = 512


def multiple_of_four(width: float) -> int:
    """The nearest multiple of 4 that is at least 4 and not below nine tenths of `width`."""
    nearest = max(4, int(width + 2) // 4 * 4)
    return nearest if nearest >= 0.9 * width else nearest + 4


class GhostModule(nn.Module):
    """A 1x1 convolution makes half of the channels, a 3x3 filter on each of those makes its ghost."""

    def __init__(self, in_width: int, width: int, *, prelu: bool):
        super().__init__()
        half = width // 2
        self.primary = conv_block(in_width, half, prelu=prelu)
        self.cheap = conv_block(half, half, kernel=3, groups=half, prelu=prelu)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], dim=1)


class SqueezeExcite(nn.Module):
    """Gates each channel by what all channels hold on average.

    Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018. https://arxiv.org/abs/1709.01507
    """

    def __init__(self, width: int):
        super().__init__()
        squeezed = multiple_of_four(width / 4)
        self.reduce = nn.Conv2d(width, squeezed, 1)
        self.prelu = PReLU(squeezed)
        self.expand = nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.expand(self.prelu(self.reduce(x.mean(dim=(2, 3), keepdim=True))))
        # Keras' hard sigmoid, whose slope is 1/5; that of GhostNet and of torch is 1/6.
        return x * (0.2 * logits + 0.5).clamp(0, 1)


class GhostBottleneck(nn.Module):
    """A ghost module that widens, perhaps a stride and a gate, one that narrows; added to the shortcut."""

    def __init__(self, in_width: int, width: int, *, hidden: int, kernel: int, stride: int, gated: bool):
        super().__init__()
        self.widen = GhostModule(in_width, hidden, prelu=True)
        self.stride = nn.Identity()
        if stride != 1:
            self.stride = conv_block(hidden, hidden, kernel=kernel, stride=stride, groups=hidden, prelu=False)
        self.gate = SqueezeExcite(hidden) if gated else nn.Identity()
        self.narrow = GhostModule(hidden, width, prelu=False)
        self.shortcut = nn.Identity()
        if stride != 1 or in_width != width:
            self.shortcut = nn.Sequential(
                conv_block(in_width, in_width, kernel=kernel, stride=stride, groups=in_width, prelu=False),
                conv_block(in_width, width, prelu=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.gate(self.stride(self.widen(x)))) + self.shortcut(x)


class GhostFaceNet(nn.Module):
    """A stem, sixteen ghost bottlenecks and a learned global pool.

    GhostFaceNetV1-1.3-2, at width 1.3, 112 px and D = 512, has 4,037,836 parameters and takes 59.3 M
    multiply-adds. The published weights cannot be taken over: Keras pads strided convolutions unevenly.
    Below 97 px the last of the bottlenecks that halve the map keep it, see `stage_strides`.

    Args:
        width: Multiplies every channel count but the embedding's; to multiples of 4.
        embedding_dim: Width of the embedding.
        size_px: Side of the images, at least 16; the network works at this size only.
    """

    stage_names = ("blocks.2", "blocks.4", "blocks.10", "blocks.15")

    def __init__(self, *, width: float, embedding_dim: int, size_px: int):
        super().__init__()
        strides = stage_strides(size_px, num_stages=1 + sum(row.halves for row in BOTTLENECKS))
        in_width = multiple_of_four(STEM_WIDTH * width)
        self.stem = conv_block(3, in_width, kernel=3, stride=strides[0])
        later_strides = iter(strides[1:])
        self.blocks = nn.Sequential()
        for row in BOTTLENECKS:
            out_width = multiple_of_four(row.width * width)
            self.blocks.append(
                GhostBottleneck(
                    in_width,
                    out_width,
                    hidden=multiple_of_four(row.hidden * width),
                    kernel=row.kernel,
                    stride=next(later_strides) if row.halves else 1,
                    gated=row.gated,
                )
            )
            in_width = out_width
        tail_width = multiple_of_four(TAIL_WIDTH * width)
        self.tail = conv_block(in_width, tail_width)
        self.pool = nn.Sequential(
            nn.Conv2d(tail_width, tail_width, map_size(size_px, strides), groups=tail_width, bias=False),
            nn.BatchNorm2d(tail_width),
        )
        self.fc = nn.Linear(tail_width, embedding_dim, bias=False)
        self.bn = nn.BatchNorm1d(embedding_dim)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H) in [-1, 1] as raw embeddings of shape (B, D)."""
        return self.bn(self.fc(self.pool(self.tail(self.blocks(self.stem(images)))).flatten(1)))


class GhostFaceNetSettings(StudentSettings):
    """GhostFaceNetV1 with a stem of stride 2: 4.0 M parameters at width 1.3 with D = 512."""

    name: Literal["ghostfacenet"] = "ghostfacenet"
    width: float = Field(default=1.3, ge=0.5, le=1.5)
    """Multiplies every channel count but the embedding's; to multiples of 4."""

    def build(self, *, embedding_dim: int, size_px: int) -> GhostFaceNet:
        return GhostFaceNet(width=self.width, embedding_dim=embedding_dim, size_px=size_px)
