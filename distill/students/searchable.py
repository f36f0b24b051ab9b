"""A student whose architecture is searched: every stage's shape is a setting of its own.

Its blocks are inverted residuals with squeeze-and-excitation, as in:
Howard et al., "Searching for MobileNetV3", ICCV 2019. https://arxiv.org/abs/1905.02244
Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018. https://arxiv.org/abs/1709.01507
Its head `gdc`, a convolution as large as the map, is MobileFaceNet's. https://arxiv.org/abs/1804.07573

How large it may become is no setting: a search space bounds `efficiency/parameters` and `efficiency/macs`,
which are counted before a trial is trained.

B: batch, C: channels, D: width of the embedding, H: side of the image
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from distill.students.base import StudentSettings, initialize, map_size, scaled_width, stage_strides
from distill.students.mobilefacenet import conv_block
from distill.students.prelu import PReLU

ActivationName = Literal["prelu", "relu", "hardswish", "silu"]
HeadName = Literal["gdc", "pool"]
KernelSize = Literal[3, 5, 7]

ACTIVATIONS: dict[ActivationName, Callable[[int], nn.Module]] = {
    "prelu": PReLU,
    "relu": lambda _: nn.ReLU(),
    "hardswish": lambda _: nn.Hardswish(),
    "silu": lambda _: nn.SiLU(),
}
"""By name, what makes the activation of so many channels."""
SQUEEZE = 0.25


class StageShape(NamedTuple):
    """What a search decides of a stage. Its fields are the settings' names, less the stage's number."""

    width: int
    depth: int
    kernel: int
    expansion: float
    se: bool


class SqueezeExcite(nn.Module):
    """Scales each channel of a map by a gate in [0, 1] that sees the means of all channels."""

    def __init__(self, width: int):
        super().__init__()
        squeezed = scaled_width(width, SQUEEZE)
        self.reduce = nn.Linear(width, squeezed)
        self.expand = nn.Linear(squeezed, width)

    def forward(self, x: Tensor) -> Tensor:
        gate_BC = F.hardsigmoid(self.expand(F.relu(self.reduce(x.mean(dim=(2, 3))))))
        return x * gate_BC[:, :, None, None]


class SearchableBlock(nn.Module):
    """Widens by 1x1, filters each channel, gates it, narrows by 1x1 and stays linear; may add its input.

    Where the expansion is 1 nothing is widened. The input is added where it has the output's shape.
    """

    def __init__(self, in_width: int, shape: StageShape, *, stride: int, activation: ActivationName):
        super().__init__()
        bend = ACTIVATIONS[activation]
        hidden = scaled_width(in_width, shape.expansion)
        layers: list[nn.Module] = []
        if shape.expansion > 1:
            layers += [conv_block(in_width, hidden, prelu=False), bend(hidden)]
        layers += [
            conv_block(hidden, hidden, kernel=shape.kernel, stride=stride, groups=hidden, prelu=False),
            bend(hidden),
        ]
        if shape.se:
            layers.append(SqueezeExcite(hidden))
        layers.append(conv_block(hidden, shape.width, prelu=False))
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and in_width == shape.width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class SearchableStudent(nn.Module):
    """A stem, four stages of inverted residuals and a head.

    The stem and the last three stages halve the map; below 49 px the later ones keep it, see `stage_strides`.

    Args:
        stem: Channels of the stem.
        stages: Shapes of the four stages.
        activation: What bends the output of every convolution but a block's last.
        head: gdc gives each place of the last map a weight of its own, pool takes the mean of all.
        embedding_dim: Width of the embedding.
        size_px: Side of the images, at least 16; with the head gdc the network works at this size only.

    Raises:
        ValueError: If `size_px` is below 16.
    """

    stage_names = ("stages.0", "stages.1", "stages.2", "stages.3")

    def __init__(
        self,
        *,
        stem: int,
        stages: Sequence[StageShape],
        activation: ActivationName,
        head: HeadName,
        embedding_dim: int,
        size_px: int,
    ):
        super().__init__()
        strides = stage_strides(size_px, num_stages=len(stages))
        self.stem = nn.Sequential(
            conv_block(3, stem, kernel=3, stride=strides[0], prelu=False), ACTIVATIONS[activation](stem)
        )
        self.stages = nn.Sequential()
        in_width = stem
        for shape, first_stride in zip(stages, (1, *strides[1:]), strict=True):
            stage = nn.Sequential()
            for stride in (first_stride, *[1] * (shape.depth - 1)):
                stage.append(SearchableBlock(in_width, shape, stride=stride, activation=activation))
                in_width = shape.width
            self.stages.append(stage)
        self.pool: nn.Module = nn.AdaptiveAvgPool2d(1)
        if head == "gdc":
            whole_map = nn.Conv2d(in_width, in_width, map_size(size_px, strides), groups=in_width, bias=False)
            self.pool = nn.Sequential(whole_map, nn.BatchNorm2d(in_width))
        self.fc = nn.Linear(in_width, embedding_dim)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H) in [-1, 1] as raw embeddings of shape (B, D)."""
        return self.fc(self.pool(self.stages(self.stem(images))).flatten(1))


class SearchableSettings(StudentSettings):
    """A student to search the architecture of: 0.48 M parameters as it stands, with D = 128 at 32 px.

    Every stage has five settings, which end in its number. They are flat so that each has a default of its
    own and can be searched alone.
    """

    name: Literal["searchable"] = "searchable"
    activation: ActivationName = "prelu"
    """What bends the output of every convolution but a block's last."""
    head: HeadName = "gdc"
    """gdc: each place of the last map has weights of its own. pool: all places are averaged."""
    stem: int = Field(default=32, ge=8, le=256)
    """Channels of the first convolution."""
    width1: int = Field(default=32, ge=8, le=512)
    """Channels of the first stage, which keeps the stem's map."""
    width2: int = Field(default=48, ge=8, le=512)
    """Channels of the second stage."""
    width3: int = Field(default=96, ge=8, le=512)
    """Channels of the third stage."""
    width4: int = Field(default=128, ge=8, le=512)
    """Channels of the fourth stage, and of the head."""
    depth1: int = Field(default=1, ge=1, le=12)
    """Blocks of the first stage."""
    depth2: int = Field(default=2, ge=1, le=12)
    """Blocks of the second stage."""
    depth3: int = Field(default=3, ge=1, le=12)
    """Blocks of the third stage."""
    depth4: int = Field(default=2, ge=1, le=12)
    """Blocks of the fourth stage."""
    kernel1: KernelSize = 3
    """Side of the depthwise convolutions of the first stage."""
    kernel2: KernelSize = 3
    """Side of the depthwise convolutions of the second stage."""
    kernel3: KernelSize = 3
    """Side of the depthwise convolutions of the third stage."""
    kernel4: KernelSize = 3
    """Side of the depthwise convolutions of the fourth stage."""
    expansion1: float = Field(default=2.0, ge=1.0, le=8.0)
    """How many times a block of the first stage widens its input, to multiples of 8; 1 does not."""
    expansion2: float = Field(default=4.0, ge=1.0, le=8.0)
    """How many times a block of the second stage widens its input, to multiples of 8; 1 does not."""
    expansion3: float = Field(default=4.0, ge=1.0, le=8.0)
    """How many times a block of the third stage widens its input, to multiples of 8; 1 does not."""
    expansion4: float = Field(default=4.0, ge=1.0, le=8.0)
    """How many times a block of the fourth stage widens its input, to multiples of 8; 1 does not."""
    se1: bool = False
    """Whether the blocks of the first stage squeeze and excite."""
    se2: bool = False
    """Whether the blocks of the second stage squeeze and excite."""
    se3: bool = False
    """Whether the blocks of the third stage squeeze and excite."""
    se4: bool = False
    """Whether the blocks of the fourth stage squeeze and excite."""

    def build(self, *, embedding_dim: int, size_px: int) -> SearchableStudent:
        return SearchableStudent(
            stem=self.stem,
            stages=[
                StageShape(*(getattr(self, f"{knob}{number}") for knob in StageShape._fields))
                for number in (1, 2, 3, 4)
            ],
            activation=self.activation,
            head=self.head,
            embedding_dim=embedding_dim,
            size_px=size_px,
        )
