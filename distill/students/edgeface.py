"""EdgeFace-XS: convolutions and attention over channels, with linear layers of low rank.

George et al., "EdgeFace: Efficient Face Recognition Model for Edge Devices", IEEE TBIOM 2024.
https://arxiv.org/abs/2307.01838
Maaz et al., "EdgeNeXt", ECCV Workshops 2022. https://arxiv.org/abs/2206.10589
El-Nouby et al., "XCiT: Cross-Covariance Image Transformers", NeurIPS 2021. https://arxiv.org/abs/2106.09681

State dictionaries have the names of timm's EdgeNeXt with such layers, as the published EdgeFace-XS has them
behind the prefix `model.`, at gamma 0.6, 112 px and D = 512.

B: batch, C: channels, D: width of the embedding, G: attention heads, H, W: height and width of a map,
K: channels of a head, N: places of a map
"""

import math
from collections import OrderedDict
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from distill.students.base import MIN_SIZE_PX, StudentSettings, initialize

WIDTHS = (32, 64, 100, 192)
CONVOLUTIONS = (3, 2, 8, 2)
"""Convolution encoders of each stage. From the second stage on, one encoder with attention follows them."""
KERNELS = (3, 5, 7, 9)
SPLITS = (1, 2, 3, 4)
"""Parts that the attention encoder of each stage splits its channels into; the first stage has none."""
NUM_HEADS = 4
EXPANSION = 4
MIN_MAP_PX = 3
FIRST_SCALE = 1e-6
"""Every residual branch starts next to silent: LayerScale, as in ConvNeXt."""
NORM_EPS = 1e-6
NUM_FREQUENCIES = 16
LONGEST_WAVE = 10_000


class LowRankLinear(nn.Module):
    """A linear layer whose matrix is the product of two, of rank gamma times the full rank and at least 2."""

    def __init__(self, in_width: int, width: int, *, gamma: float):
        super().__init__()
        rank = max(2, int(min(in_width, width) * gamma))
        self.linear1 = nn.Linear(in_width, rank, bias=False)
        self.linear2 = nn.Linear(rank, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.linear1(x))


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each place of a map (B, C, H, W)."""

    def __init__(self, width: int):
        super().__init__(width, eps=NORM_EPS)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def mlp(width: int, *, gamma: float) -> nn.Sequential:
    """Widens fourfold, bends and narrows the channels of each place."""
    return nn.Sequential(
        OrderedDict(
            fc1=LowRankLinear(width, EXPANSION * width, gamma=gamma),
            act=nn.GELU(),
            fc2=LowRankLinear(EXPANSION * width, width, gamma=gamma),
        )
    )


class ConvolutionEncoder(nn.Module):
    """Adds what a depthwise convolution, a norm and an MLP make of a map (B, C, H, W)."""

    def __init__(self, width: int, *, kernel: int, gamma: float):
        super().__init__()
        self.conv_dw = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = mlp(width, gamma=gamma)
        self.gamma = nn.Parameter(torch.full((width,), FIRST_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        hidden_BHWC = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        return x + (self.gamma * hidden_BHWC).permute(0, 3, 1, 2)


class CrossCovarianceAttention(nn.Module):
    """Attention among the channels of a head, by how alike they are over all places: linear in the latter."""

    def __init__(self, width: int, *, gamma: float):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(NUM_HEADS, 1, 1))
        self.qkv = LowRankLinear(width, 3 * width, gamma=gamma)
        self.proj = LowRankLinear(width, width, gamma=gamma)

    def forward(self, x_BNC: Tensor) -> Tensor:
        qkv = self.qkv(x_BNC).unflatten(-1, (3, NUM_HEADS, -1)).permute(2, 0, 3, 4, 1)
        query_BGKN, key_BGKN, value_BGKN = qkv.unbind()
        alike_BGKK = F.normalize(query_BGKN, dim=-1) @ F.normalize(key_BGKN, dim=-1).mT
        attended_BGKN = (alike_BGKK * self.temperature).softmax(dim=-1) @ value_BGKN
        return self.proj(attended_BGKN.flatten(1, 2).mT)


class PositionCode(nn.Module):
    """A code of each place of a map, from sines and cosines of its row and its column."""

    def __init__(self, width: int):
        super().__init__()
        self.token_projection = nn.Conv2d(4 * NUM_FREQUENCIES, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The code (1, C, H, W) of a map (B, C, H, W)."""
        rows, columns = (self._waves(size, like=x) for size in x.shape[2:])
        grid = (len(rows), len(columns), -1)
        waves_HWC = torch.cat((rows[:, None].expand(grid), columns.expand(grid)), dim=2)
        return self.token_projection(waves_HWC.permute(2, 0, 1)[None])

    @staticmethod
    def _waves(size: int, *, like: Tensor) -> Tensor:
        """Sine and cosine by turns, at falling frequencies, along one side of a map: (side, 32)."""
        place = torch.arange(1, size + 1, device=like.device, dtype=like.dtype) / (size + NORM_EPS)
        exponent = torch.arange(NUM_FREQUENCIES, device=like.device, dtype=like.dtype) / NUM_FREQUENCIES
        angle = 2 * math.pi * place[:, None] / LONGEST_WAVE**exponent
        return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)


class AttentionEncoder(nn.Module):
    """Adds what a cascade of depthwise convolutions, attention over channels and an MLP make of a map.

    The channels are split. Each part but the last is convolved after the result before it was added, so that
    later parts see farther; the last part stays as it is.
    """

    def __init__(self, width: int, *, num_parts: int, has_position: bool, gamma: float):
        super().__init__()
        part = math.ceil(width / num_parts)
        self.convs = nn.ModuleList(
            nn.Conv2d(part, part, 3, padding=1, groups=part) for _ in range(num_parts - 1)
        )
        self.pos_embd = PositionCode(width) if has_position else None
        self.norm_xca = nn.LayerNorm(width, eps=NORM_EPS)
        self.gamma_xca = nn.Parameter(torch.full((width,), FIRST_SCALE))
        self.xca = CrossCovarianceAttention(width, gamma=gamma)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = mlp(width, gamma=gamma)
        self.gamma = nn.Parameter(torch.full((width,), FIRST_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        *parts, last = x.chunk(len(self.convs) + 1, dim=1)
        seen: list[Tensor] = []
        for conv, part in zip(self.convs, parts, strict=True):
            seen.append(conv(part + seen[-1] if seen else part))
        hidden = torch.cat((*seen, last), dim=1)
        if self.pos_embd is not None:
            hidden = hidden + self.pos_embd(hidden)
        hidden_BNC = hidden.flatten(2).mT
        hidden_BNC = hidden_BNC + self.gamma_xca * self.xca(self.norm_xca(hidden_BNC))
        hidden_BNC = self.gamma * self.mlp(self.norm(hidden_BNC))
        return x + hidden_BNC.mT.unflatten(2, x.shape[2:])


class EdgeFace(nn.Module):
    """EdgeNeXt-X-Small with low-rank linear layers and an embedding for a head.

    1,770,492 parameters at gamma 0.6, 112 px and D = 512. The stem cuts a face into patches of 4 px; three
    stages then halve the map, to 3 px at 112. On a smaller face the later stages keep their map where it
    would fall below 3 px.

    Args:
        gamma: Rank of each linear layer, as a share of its full rank.
        embedding_dim: Width of the embedding.
        size_px: Side of the images, at least 16. It decides which stages halve the map; weights fit any size.

    Raises:
        ValueError: If `size_px` is below 16.
    """

    stage_names = ("stages.0", "stages.1", "stages.2", "stages.3")

    def __init__(self, *, gamma: float, embedding_dim: int, size_px: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 4, stride=4), ChannelNorm(WIDTHS[0]))
        self.stages = nn.Sequential(
            *(_stage(number, stride=stride, gamma=gamma) for number, stride in enumerate(_strides(size_px)))
        )
        self.head = nn.Sequential(
            OrderedDict(
                norm=nn.LayerNorm(WIDTHS[-1], eps=NORM_EPS),
                fc=LowRankLinear(WIDTHS[-1], embedding_dim, gamma=gamma),
            )
        )
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H) in [-1, 1] as raw embeddings of shape (B, D)."""
        return self.head(self.stages(self.stem(images)).mean(dim=(2, 3)))


def _stage(number: int, *, stride: int, gamma: float) -> nn.Sequential:
    """The encoders of a stage; from the second on, its width and size change first."""
    width = WIDTHS[number]
    blocks: list[nn.Module] = [
        ConvolutionEncoder(width, kernel=KERNELS[number], gamma=gamma) for _ in range(CONVOLUTIONS[number])
    ]
    if number == 0:
        return nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks)))
    in_width = WIDTHS[number - 1]
    blocks.append(AttentionEncoder(width, num_parts=SPLITS[number], has_position=number == 1, gamma=gamma))
    return nn.Sequential(
        OrderedDict(
            downsample=nn.Sequential(ChannelNorm(in_width), nn.Conv2d(in_width, width, stride, stride)),
            blocks=nn.Sequential(*blocks),
        )
    )


def _strides(size_px: int) -> tuple[int, ...]:
    """Strides of the four stages behind the stem."""
    if size_px < MIN_SIZE_PX:
        raise ValueError(f"size_px must be at least {MIN_SIZE_PX}, got {size_px}")
    map_px, strides = size_px // 4, [1]
    for _ in WIDTHS[1:]:
        strides.append(2 if map_px // 2 >= MIN_MAP_PX else 1)
        map_px //= strides[-1]
    return tuple(strides)


class EdgeFaceSettings(StudentSettings):
    """EdgeFace-XS: 1.64 M parameters at gamma 0.6 with D = 128."""

    name: Literal["edgeface"] = "edgeface"
    gamma: float = Field(default=0.6, ge=0.2, le=1.0)
    """Rank of each linear layer, as a share of its full rank. Near 1 the two factors hold more than the one
    matrix that they stand for."""

    def build(self, *, embedding_dim: int, size_px: int) -> EdgeFace:
        return EdgeFace(gamma=self.gamma, embedding_dim=embedding_dim, size_px=size_px)
