"""InsightFace's MobileFaceNets, `mbf` and `mbf_large`: wider than the classic one, and with other names.

Chen et al., "MobileFaceNets", CCBR 2018. https://arxiv.org/abs/1804.07573
Deng et al., InsightFace, `arcface_torch`. https://github.com/deepinsight/insightface

State dictionaries have the names of arcface_torch, whose weights load strictly at 112 px.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from distill.students.base import StudentSettings, initialize, map_size, stage_strides
from distill.students.prelu import PReLU

BLOCKS = {"base": (1, 4, 6, 2), "large": (2, 8, 12, 4)}
SCALE = {"base": 2, "large": 4}
LAST_WIDTH = 512


class ConvBlock(nn.Module):
    """A convolution, BN and, unless the block is to stay linear, a PReLU with a slope per channel."""

    def __init__(
        self,
        in_width: int,
        width: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        prelu: bool = True,
    ):
        super().__init__()
        conv = nn.Conv2d(in_width, width, kernel, stride, padding=padding, groups=groups, bias=False)
        self.layers = nn.Sequential(conv, nn.BatchNorm2d(width))
        if prelu:
            self.layers.append(PReLU(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class DepthWise(nn.Module):
    """Goes to `hidden` channels by 1x1, filters each by 3x3, leaves by 1x1 and stays linear."""

    def __init__(self, in_width: int, width: int, *, hidden: int, stride: int = 1, shortcut: bool = False):
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(in_width, hidden),
            ConvBlock(hidden, hidden, kernel=3, stride=stride, padding=1, groups=hidden),
            ConvBlock(hidden, width, prelu=False),
        )
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class Residual(nn.Module):
    """Units that keep the map and add their input."""

    def __init__(self, width: int, *, hidden: int, num_units: int):
        super().__init__()
        units = (DepthWise(width, width, hidden=hidden, shortcut=True) for _ in range(num_units))
        self.layers = nn.Sequential(*units)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class WholeMapHead(nn.Module):
    """A depthwise convolution over the whole map, a linear layer and BN."""

    def __init__(self, map_px: int, *, embedding_dim: int):
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(LAST_WIDTH, LAST_WIDTH, kernel=map_px, groups=LAST_WIDTH, prelu=False),
            nn.Flatten(),
            nn.Linear(LAST_WIDTH, embedding_dim, bias=False),
            nn.BatchNorm1d(embedding_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Mbf(nn.Module):
    """A wide trunk around bottlenecks of the classic widths.

    2,059,520 parameters with blocks (1, 4, 6, 2) and scale 2, and 6,314,880 with (2, 8, 12, 4) and scale 4,
    at 112 px and D = 512. Below 49 px later stages keep their map, see `stage_strides`.

    Args:
        blocks: Units of the four stages. One unit in the first is a plain 3x3 convolution in 64 groups.
        scale: Multiplies the trunk's 64 and 128 channels; the bottlenecks inside keep theirs.
        embedding_dim: Width of the embedding.
        size_px: Side of the images, at least 16; the network works at this size only.

    Raises:
        ValueError: If there are not four stages, or `size_px` is below 16.
    """

    stage_names = ("layers.1", "layers.3", "layers.5", "layers.7")

    def __init__(self, *, blocks: Sequence[int], scale: int, embedding_dim: int, size_px: int):
        super().__init__()
        if len(blocks) != 4:
            raise ValueError(f"Mbf has four stages, got {len(blocks)} numbers of blocks")
        w64, w128 = 64 * scale, 128 * scale
        strides = stage_strides(size_px, num_stages=4)
        first = (
            ConvBlock(w64, w64, kernel=3, padding=1, groups=64)
            if blocks[0] == 1
            else Residual(w64, hidden=128, num_units=blocks[0])
        )
        self.layers = nn.Sequential(
            ConvBlock(3, w64, kernel=3, stride=strides[0], padding=1),
            first,
            DepthWise(w64, w64, hidden=128, stride=strides[1]),
            Residual(w64, hidden=128, num_units=blocks[1]),
            DepthWise(w64, w128, hidden=256, stride=strides[2]),
            Residual(w128, hidden=256, num_units=blocks[2]),
            DepthWise(w128, w128, hidden=512, stride=strides[3]),
            Residual(w128, hidden=256, num_units=blocks[3]),
        )
        self.conv_sep = ConvBlock(w128, LAST_WIDTH)
        self.features = WholeMapHead(map_size(size_px, strides), embedding_dim=embedding_dim)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H) in [-1, 1] as raw embeddings of shape (B, D)."""
        return self.features(self.conv_sep(self.layers(images)))


class MbfSettings(StudentSettings):
    """InsightFace's MobileFaceNet, 2.1 M parameters with D = 512; 6.3 M when it is large."""

    name: Literal["mbf"] = "mbf"
    size: Literal["base", "large"] = "base"
    """base: InsightFace's mbf. large: its mbf_large, with twice the trunk's width and number of units."""

    def build(self, *, embedding_dim: int, size_px: int) -> Mbf:
        return Mbf(
            blocks=BLOCKS[self.size], scale=SCALE[self.size], embedding_dim=embedding_dim, size_px=size_px
        )
