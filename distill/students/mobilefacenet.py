"""MobileFaceNet: inverted residuals and a learned global pool, the usual student of face distillation.

Chen et al., "MobileFaceNets", CCBR 2018. https://arxiv.org/abs/1804.07573

State dictionaries have the names of the classic one-fold family (cavaface, FaceX-Zoo, AdaDistill), whose
weights load strictly at width 1, 112 px and D = 512. InsightFace's `mbf` is another, wider network.
"""

from collections import OrderedDict
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from distill.students.base import StudentSettings, initialize, map_size, scaled_width, stage_strides
from distill.students.prelu import PReLU


def conv_block(
    in_width: int, width: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, prelu: bool = True
) -> nn.Sequential:
    """A padded convolution, BN and, unless the block is to stay linear, a PReLU with a slope per channel."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(in_width, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        bn=nn.BatchNorm2d(width),
    )
    if prelu:
        layers["prelu"] = PReLU(width)
    return nn.Sequential(layers)


class InvertedResidual(nn.Module):
    """Widens by 1x1, filters each channel by 3x3, narrows by 1x1 and stays linear; may add its input."""

    def __init__(self, in_width: int, width: int, *, hidden: int, stride: int = 1, shortcut: bool = False):
        super().__init__()
        self.conv = conv_block(in_width, hidden)
        self.conv_dw = conv_block(hidden, hidden, kernel=3, stride=stride, groups=hidden)
        self.project = conv_block(hidden, width, prelu=False)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        projected = self.project(self.conv_dw(self.conv(x)))
        return x + projected if self.shortcut else projected


def residual_stage(width: int, *, hidden: int, num_units: int) -> nn.Sequential:
    """Units that keep the map and add their input."""
    units = (InvertedResidual(width, width, hidden=hidden, shortcut=True) for _ in range(num_units))
    return nn.Sequential(OrderedDict(model=nn.Sequential(*units)))


class MobileFaceNet(nn.Module):
    """The classic network: 1,199,488 parameters and 228 M multiply-adds at width 1, 112 px and D = 512.

    The last depthwise convolution covers the whole map, so that each place of a face has its own weight. The
    last BN has no gain and no bias: in training every dimension of the embedding has mean 0 and variance 1,
    whatever the teacher's has, which raw embeddings can only be matched up to.
    Below 49 px later stages keep their map, see `stage_strides`.

    Args:
        width: Multiplies every channel count but the embedding's; to multiples of 8 unless it is 1.
        embedding_dim: Width of the embedding.
        size_px: Side of the images, at least 16; the network works at this size only.
    """

    stage_names = ("conv2_dw", "conv_3", "conv_4", "conv_5")

    def __init__(self, *, width: float, embedding_dim: int, size_px: int):
        super().__init__()
        w64, w128, w256, w512 = (scaled_width(channels, width) for channels in (64, 128, 256, 512))
        strides = stage_strides(size_px, num_stages=4)
        self.conv1 = conv_block(3, w64, kernel=3, stride=strides[0])
        self.conv2_dw = conv_block(w64, w64, kernel=3, groups=w64)
        self.conv_23 = InvertedResidual(w64, w64, hidden=w128, stride=strides[1])
        self.conv_3 = residual_stage(w64, hidden=w128, num_units=4)
        self.conv_34 = InvertedResidual(w64, w128, hidden=w256, stride=strides[2])
        self.conv_4 = residual_stage(w128, hidden=w256, num_units=6)
        self.conv_45 = InvertedResidual(w128, w128, hidden=w512, stride=strides[3])
        self.conv_5 = residual_stage(w128, hidden=w256, num_units=2)
        self.conv_6_sep = conv_block(w128, w512)
        whole_map = nn.Conv2d(w512, w512, map_size(size_px, strides), groups=w512, bias=False)
        self.output_layer = nn.Sequential(
            OrderedDict(
                conv_6_dw=nn.Sequential(OrderedDict(conv=whole_map, bn=nn.BatchNorm2d(w512))),
                flatten=nn.Flatten(),
                linear=nn.Linear(w512, embedding_dim, bias=False),
                bn=nn.BatchNorm1d(embedding_dim, affine=False),
            )
        )
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H) in [-1, 1] as raw embeddings of shape (B, D)."""
        x = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(images))))
        x = self.conv_5(self.conv_45(self.conv_4(self.conv_34(x))))
        return self.output_layer(self.conv_6_sep(x))


class MobileFaceNetSettings(StudentSettings):
    """The classic MobileFaceNet: 1.0 M parameters at width 1 with D = 128."""

    name: Literal["mobilefacenet"] = "mobilefacenet"
    width: float = Field(default=1.0, ge=0.25, le=2.0)
    """Multiplies every channel count but the embedding's; to multiples of 8 unless it is 1."""

    def build(self, *, embedding_dim: int, size_px: int) -> MobileFaceNet:
        return MobileFaceNet(width=self.width, embedding_dim=embedding_dim, size_px=size_px)
