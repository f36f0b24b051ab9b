"""PocketNet: cells whose wiring was found by a search on faces.

Boutros et al., "PocketNet: Extreme Lightweight Face Recognition Network Using Neural Architecture Search and
Multistep Knowledge Distillation", IEEE Access 2022. https://arxiv.org/abs/2108.10710

The wiring is the one in the authors' configurations, searched on CASIA-WebFace. State dictionaries have their
names, and their shapes at 112 px with D of 128 or 256.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.students.base import StudentSettings, initialize, map_size, stage_strides
from distill.students.prelu import PReLU

Operation = Literal["conv_1x1", "conv_3x3", "conv_5x5", "conv_7x7", "max_pool", "skip"]
Edge = tuple[Operation, int]
Wiring = tuple[tuple[Edge, Edge], ...]
"""What the nodes of a cell add, two operations each, and the output that each operation reads: 0 is that of
the last cell but one, 1 that of the last cell, 2 and up are those of this cell's nodes."""

NORMAL: Wiring = (
    (("conv_3x3", 0), ("conv_1x1", 1)),
    (("conv_3x3", 2), ("conv_5x5", 0)),
    (("conv_3x3", 3), ("conv_3x3", 0)),
    (("conv_3x3", 4), ("skip", 0)),
)
REDUCTION: Wiring = (
    (("conv_3x3", 1), ("conv_7x7", 0)),
    (("skip", 2), ("conv_5x5", 1)),
    (("max_pool", 0), ("skip", 2)),
    (("max_pool", 0), ("max_pool", 1)),
)
STEM_WIDTH_FACTOR = 4
TAIL_WIDTH = 512


def separable_conv(in_width: int, width: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    """PReLU, a filter for each channel, a 1x1 convolution that mixes them, BN."""
    net = nn.Sequential(
        PReLU(in_width),
        nn.Conv2d(in_width, in_width, kernel, stride, padding=kernel // 2, groups=in_width, bias=False),
        nn.Conv2d(in_width, width, 1, bias=False),
        nn.BatchNorm2d(width),
    )
    return nn.Sequential(OrderedDict(net=net))


def operation(name: Operation, width: int, *, stride: int) -> nn.Module:
    """What an edge of a cell does. `skip` has no stride: no reduction skips from another cell's output."""
    if name == "skip":
        return nn.Identity()
    if name == "max_pool":
        pool = nn.MaxPool2d(3, stride, padding=1)
        return nn.Sequential(OrderedDict(pool=pool, bn=nn.BatchNorm2d(width)))
    return separable_conv(width, width, kernel=int(name[-1]), stride=stride)


class FactorizedReduction(nn.Module):
    """Halves a map: half of the channels see its even rows and columns, half its odd ones."""

    def __init__(self, in_width: int, width: int):
        super().__init__()
        self.relu = PReLU(in_width)
        self.conv11 = nn.Conv2d(in_width, in_width, 1, stride=2, groups=in_width, bias=False)
        self.conv12 = nn.Conv2d(in_width, width // 2, 1, bias=False)
        self.conv21 = nn.Conv2d(in_width, in_width, 1, stride=2, groups=in_width, bias=False)
        self.conv22 = nn.Conv2d(in_width, width // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        even = self.conv12(self.conv11(x))
        # The zeros matter for odd sides only, which have one odd row fewer than even ones.
        odd = self.conv22(self.conv21(F.pad(x[:, :, 1:, 1:], (0, 1, 0, 1))))
        return self.bn(torch.cat([even, odd], dim=1))


class Node(nn.ModuleList):
    """Adds what two operations make of earlier outputs.

    Args:
        edges: The operations, and which outputs they read.
        width: Channels.
        stride: Of the operations that read another cell's output.
    """

    def __init__(self, edges: tuple[Edge, Edge], width: int, *, stride: int):
        super().__init__(operation(name, width, stride=stride if source < 2 else 1) for name, source in edges)
        self.sources = [source for _, source in edges]

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        first, second = (edge(outputs[source]) for edge, source in zip(self, self.sources, strict=True))
        return first + second


class Cell(nn.Module):
    """Brings the outputs of the last two cells to one shape, wires its nodes and puts out all of them.

    Args:
        wiring: Its nodes.
        in_widths: Channels of the last cell but one and of the last.
        width: Channels of each node.
        stride: By which the nodes' maps are smaller than those of the last cell.
        halve_earlier: Whether the last cell halved the map, so that the one before put out a larger one.
    """

    def __init__(
        self, wiring: Wiring, in_widths: tuple[int, int], width: int, *, stride: int, halve_earlier: bool
    ):
        super().__init__()
        self.preproc0 = (
            FactorizedReduction(in_widths[0], width)
            if halve_earlier
            else separable_conv(in_widths[0], width, kernel=1)
        )
        self.preproc1 = separable_conv(in_widths[1], width, kernel=1)
        self.dag = nn.ModuleList(Node(edges, width, stride=stride) for edges in wiring)

    def forward(self, earlier: Tensor, last: Tensor) -> Tensor:
        outputs = [self.preproc0(earlier), self.preproc1(last)]
        for node in self.dag:
            outputs.append(node(outputs))
        return torch.cat(outputs[2:], dim=1)


class PocketNet(nn.Module):
    """A stem that halves the map, cells of which three halve it again, and MobileFaceNet's head.

    PocketNetS-128, at 112 px and D = 128, has 925,632 parameters and takes 284 M multiply-adds. The paper's
    587 MFLOPs are two for each of them and those of BN, PReLU and pools.
    The map is halved after a third and two thirds of the cells, and by the last. Below 49 px later reductions
    keep it, see `stage_strides`.

    Args:
        width: Channels of a node in the first cells; every reduction doubles them.
        num_cells: Number of cells, at least 4.
        embedding_dim: Width of the embedding.
        size_px: Side of the images, at least 16; the network works at this size only.
    """

    def __init__(self, *, width: int, num_cells: int, embedding_dim: int, size_px: int):
        super().__init__()
        strides = stage_strides(size_px, num_stages=4)
        reductions = dict(zip((num_cells // 3, 2 * num_cells // 3, num_cells - 1), strides[1:], strict=True))
        stem_width = STEM_WIDTH_FACTOR * width
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem_width, 3, strides[0], padding=1, bias=False), nn.BatchNorm2d(stem_width)
        )
        self.cells = nn.ModuleList()
        in_widths, halved = (stem_width, stem_width), False
        for index in range(num_cells):
            wiring, stride = (REDUCTION, reductions[index]) if index in reductions else (NORMAL, 1)
            width = 2 * width if index in reductions else width
            self.cells.append(Cell(wiring, in_widths, width, stride=stride, halve_earlier=halved))
            in_widths, halved = (in_widths[1], len(wiring) * width), stride == 2
        self.tail = nn.Sequential(
            PReLU(in_widths[1]),
            nn.Conv2d(in_widths[1], TAIL_WIDTH, 1, bias=False),
            nn.BatchNorm2d(TAIL_WIDTH),
            PReLU(TAIL_WIDTH),
            nn.Conv2d(TAIL_WIDTH, TAIL_WIDTH, map_size(size_px, strides), groups=TAIL_WIDTH, bias=False),
            nn.BatchNorm2d(TAIL_WIDTH),
            nn.Conv2d(TAIL_WIDTH, embedding_dim, 1, bias=False),
            nn.BatchNorm2d(embedding_dim),
        )
        self.stage_names = tuple(f"cells.{index - 1}" for index in (*reductions, num_cells))
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H) in [-1, 1] as raw embeddings of shape (B, D)."""
        earlier = last = self.stem(images)
        for cell in self.cells:
            earlier, last = last, cell(earlier, last)
        return self.tail(last).flatten(1)


class PocketNetSettings(StudentSettings):
    """PocketNetS and PocketNetM: 0.93 and 1.69 M parameters at 112 px with D = 128."""

    name: Literal["pocketnet"] = "pocketnet"
    variant: Literal["s", "m"] = "s"
    """s: 18 cells of 16 channels a node. m: 9 cells of 32."""

    def build(self, *, embedding_dim: int, size_px: int) -> PocketNet:
        width, num_cells = {"s": (16, 18), "m": (32, 9)}[self.variant]
        return PocketNet(width=width, num_cells=num_cells, embedding_dim=embedding_dim, size_px=size_px)
