"""IResNet, the residual network of ArcFace: a teacher's at full size, a student's when it is narrow.

Deng et al., "ArcFace", CVPR 2019. https://arxiv.org/abs/1801.07698
Duta et al., "Improved Residual Networks", ICPR 2020. https://arxiv.org/abs/2004.04989

State dictionaries have the names of InsightFace's arcface_torch, whose weights load strictly at 112 px.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from distill.students.base import StudentSettings, initialize, map_size, scaled_width, stage_strides
from distill.students.prelu import PReLU

Depth = Literal[18, 34, 50, 100]
BLOCKS: dict[Depth, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
}
"""Residual blocks of each stage, by the depth that names the network."""


class ResidualBlock(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 with the stride, BN; added to the shortcut. Nothing bends the sum."""

    def __init__(self, in_width: int, width: int, *, stride: int, bn_eps: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width, eps=bn_eps)
        self.conv1 = nn.Conv2d(in_width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, eps=bn_eps)
        self.prelu = PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width, eps=bn_eps)
        self.downsample = None
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width, eps=bn_eps)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return residual + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """Four stages of residual blocks, each of which starts by halving the map, and a flattened head.

    The published depths have the blocks of `BLOCKS` and widths (64, 128, 256, 512). Below 49 px later stages
    keep their map, see `stage_strides`.

    Args:
        blocks: Residual blocks of each of the four stages.
        widths: Channels of each stage; the stem has the first stage's.
        embedding_dim: Width of the embedding.
        size_px: Side of the images, at least 16; the flattened head works at this size only.
        dropout: Share of the last map's activations that are dropped in training.
        bn_eps: 1e-5 in arcface_torch; 2e-5 in networks that were ported from MXNet.

    Raises:
        ValueError: If there are not four stages, or `size_px` is below 16.
    """

    stage_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        *,
        blocks: Sequence[int],
        widths: Sequence[int],
        embedding_dim: int,
        size_px: int,
        dropout: float = 0.0,
        bn_eps: float = 1e-5,
    ):
        super().__init__()
        if not len(blocks) == len(widths) == 4:
            raise ValueError(
                f"IResNet has four stages, got {len(blocks)} numbers of blocks, {len(widths)} widths"
            )
        strides = stage_strides(size_px, num_stages=4)
        map_px = map_size(size_px, strides)
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0], eps=bn_eps)
        self.prelu = PReLU(widths[0])
        in_widths = (widths[0], *widths[:3])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                ResidualBlock(in_width, width, stride=stride, bn_eps=bn_eps),
                *(ResidualBlock(width, width, stride=1, bn_eps=bn_eps) for _ in range(num_blocks - 1)),
            )
            for in_width, width, stride, num_blocks in zip(in_widths, widths, strides, blocks, strict=True)
        )
        self.bn2 = nn.BatchNorm2d(widths[3], eps=bn_eps)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(widths[3] * map_px**2, embedding_dim)
        self.features = nn.BatchNorm1d(embedding_dim, eps=bn_eps)
        # A margin loss sees only directions: a gain per dimension would tilt them for nothing.
        self.features.weight.requires_grad_(False)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H) in [-1, 1] as raw embeddings of shape (B, D)."""
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.dropout(self.bn2(x).flatten(1))))


class IResNetSettings(StudentSettings):
    """IResNet as published, or narrower: 24.0 M parameters at depth 18, width 1, 112 px and D = 512.

    Depths 34, 50 and 100 have 34.1, 43.6 and 65.2 M. 12.8 M of each are in the flattened head.
    """

    name: Literal["iresnet"] = "iresnet"
    depth: Depth = 18
    """Chooses the number of residual blocks, see `BLOCKS`."""
    width: float = Field(default=1.0, ge=0.25, le=1.0)
    """Multiplies the widths 64, 128, 256 and 512, which are rounded to multiples of 8."""
    dropout: float = Field(default=0.0, ge=0.0, le=0.6)
    """Share of the last map's activations that are dropped in training. SFace: 0.4, at depth 50."""

    def build(self, *, embedding_dim: int, size_px: int) -> IResNet:
        return IResNet(
            blocks=BLOCKS[self.depth],
            widths=[scaled_width(width, self.width) for width in (64, 128, 256, 512)],
            embedding_dim=embedding_dim,
            size_px=size_px,
            dropout=self.dropout,
        )


class IResNetSmallSettings(StudentSettings):
    """An IResNet of one block a stage and widths 16 to 128.

    At width 1, 32 px and D = 128 it has 0.57 M parameters and takes 11 M multiply-adds.
    """

    name: Literal["iresnet_small"] = "iresnet_small"
    width: float = Field(default=1.0, ge=0.5, le=2.0)
    """Multiplies the widths 16, 32, 64 and 128, which are rounded to multiples of 8."""

    def build(self, *, embedding_dim: int, size_px: int) -> IResNet:
        return IResNet(
            blocks=(1, 1, 1, 1),
            widths=[scaled_width(width, self.width) for width in (16, 32, 64, 128)],
            embedding_dim=embedding_dim,
            size_px=size_px,
        )
