"""StyleGAN2's generator network. Its tensors are named and shaped as in NVIDIA's PyTorch files.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020.
https://arxiv.org/abs/1912.04958. Class-conditional as in "Training Generative Adversarial Networks with
Limited Data", NeurIPS 2020. https://arxiv.org/abs/2006.06676

B: batch, Z, W: widths of the two latents, C: classes, L: latents that the synthesis takes, one a layer;
I, O: channels that enter and leave a layer, H: side in pixels
"""

import math
from collections.abc import Callable
from typing import Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from distill.settings import Settings

Noise = Callable[[int, Tensor], Tensor | None]
"""What is added after a convolution, of shape (B, 1, H, H) or (H, H), before it is scaled by the layer's
strength: told the layer's number and its stored noise of shape (H, H). None: nothing is added."""


class Architecture(Settings):
    """What must be known to build the network around its weights."""

    z_dim: int = Field(default=512, ge=1, le=8192)
    """Width of the latent that is drawn."""
    c_dim: int = Field(default=0, ge=0, le=10_000_000)
    """Classes; 0 when the network is unconditional."""
    w_dim: int = Field(default=512, ge=1, le=8192)
    """Width of the latent that is rendered."""
    resolution: int = Field(ge=32, le=1024)
    """Side of the images, a power of two."""
    channel_base: int = Field(default=32768, ge=1024)
    """A layer of side H has channel_base / H channels ..."""
    channel_max: int = Field(default=512, ge=1, le=8192)
    """... but no more than these."""
    num_mapping_layers: int = Field(default=8, ge=1, le=64)
    """Layers between z and w."""
    conv_clamp: float | None = Field(default=None, gt=0)
    """What activations and colours are limited to; unset: nothing. Networks that were trained in half
    precision need their limit, 256, in full precision too."""

    @model_validator(mode="after")
    def _sides_double(self) -> Self:
        if self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution must be a power of two, got {self.resolution}")
        return self

    @property
    def sides_px(self) -> list[int]:
        """Side of each block, from 4 to `resolution`."""
        return [2**power for power in range(2, self.resolution.bit_length())]

    @property
    def num_ws(self) -> int:
        """L: one for each convolution and one for the last colours."""
        return 2 * len(self.sides_px)

    def channels(self, side_px: int) -> int:
        """Channels of the layers of one side."""
        return min(self.channel_base // side_px, self.channel_max)


class Network(nn.Module):
    """Mapping and synthesis, with random weights until they are loaded."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        self.architecture = architecture
        self.mapping = Mapping(architecture)
        self.synthesis = Synthesis(architecture)


class Linear(nn.Module):
    """A linear layer that keeps its weights at unit variance and scales them when they are used."""

    def __init__(self, in_dim: int, out_dim: int, *, lr_multiplier: float = 1.0, initial_bias: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_dim,), initial_bias))
        self._weight_gain, self._bias_gain = lr_multiplier / math.sqrt(in_dim), lr_multiplier

    def forward(self, x_BI: Tensor) -> Tensor:
        return F.linear(x_BI * self._weight_gain, self.weight, self.bias * self._bias_gain)


class Mapping(nn.Module):
    """Maps z, and the class where the network has classes, to w."""

    w_avg: Tensor

    def __init__(self, architecture: Architecture):
        super().__init__()
        z_dim, w_dim, self._num_classes = architecture.z_dim, architecture.w_dim, architecture.c_dim
        in_dim = z_dim
        if self._num_classes:
            self.embed = Linear(self._num_classes, w_dim)
            in_dim += w_dim
        self._names = [f"fc{number}" for number in range(architecture.num_mapping_layers)]
        for name in self._names:
            self.add_module(name, Linear(in_dim, w_dim, lr_multiplier=0.01))
            in_dim = w_dim
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z_BZ: Tensor, classes_B: Tensor | None = None, *, psi: float = 1.0) -> Tensor:
        """Returns w, of shape (B, W).

        Args:
            classes_B: Needed by a conditional network, and only by it.
            psi: Truncation: how far w stays from the mean w, 1 being where it was mapped to.
        """
        # In full precision always: it costs nothing, and every layer of the synthesis hangs on it.
        with torch.autocast(z_BZ.device.type, enabled=False):
            x = _normalised(z_BZ)
            if classes_B is not None:
                one_hot_BC = F.one_hot(classes_B, self._num_classes).float()
                x = torch.cat([x, _normalised(self.embed(one_hot_BC))], dim=1)
            for name in self._names:
                x = F.leaky_relu(getattr(self, name)(x), 0.2) * math.sqrt(2)
            return torch.lerp(self.w_avg, x, psi)


class Synthesis(nn.Module):
    """Draws images, block by block, each of twice the side of the one before."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        self._names = [f"b{side_px}" for side_px in architecture.sides_px]
        for side_px, name in zip(architecture.sides_px, self._names, strict=True):
            self.add_module(name, Block(architecture, side_px))

    def forward(self, ws_BLW: Tensor, noise: Noise) -> Tensor:
        """Returns images of shape (B, 3, H, H): RGB, about [-1, 1], not clamped."""
        blocks = [cast(Block, getattr(self, name)) for name in self._names]
        x = blocks[0].const.expand(len(ws_BLW), -1, -1, -1)
        image, number = None, 0
        for block in blocks:
            for layer in block.layers():
                x = layer(x, ws_BLW[:, number], noise(number, layer.noise_const))
                number += 1
            # Colours share the latent of the next block's first convolution.
            colours = block.torgb(x, ws_BLW[:, number])
            image = colours if image is None else block.enlarged(image) + colours
        assert image is not None
        return image


class Block(nn.Module):
    """The layers of one side. The first block starts from a learnt constant instead of an image."""

    resample_filter: Tensor

    def __init__(self, architecture: Architecture, side_px: int):
        super().__init__()
        channels, w_dim, clamp = architecture.channels(side_px), architecture.w_dim, architecture.conv_clamp
        self._first = side_px == 4
        self.register_buffer("resample_filter", _low_pass())
        if self._first:
            self.const = nn.Parameter(torch.randn(channels, side_px, side_px))
        else:
            in_channels = architecture.channels(side_px // 2)
            self.conv0 = StyledConv(in_channels, channels, w_dim=w_dim, side_px=side_px, up=True, clamp=clamp)
        self.conv1 = StyledConv(channels, channels, w_dim=w_dim, side_px=side_px, up=False, clamp=clamp)
        self.torgb = ToRGB(channels, w_dim=w_dim, clamp=clamp)

    def layers(self) -> "list[StyledConv]":
        return [self.conv1] if self._first else [self.conv0, self.conv1]

    def enlarged(self, image_B3HH: Tensor) -> Tensor:
        """The image at twice its side."""
        filters_3144 = (4 * self.resample_filter).expand(3, 1, -1, -1)
        return F.conv_transpose2d(image_B3HH, filters_3144, stride=2, padding=1, groups=3)


class StyledConv(nn.Module):
    """A convolution whose weights each face modulates by its own w, with noise and a leaky ReLU."""

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        side_px: int,
        up: bool,
        clamp: float | None,
    ):
        super().__init__()
        self._up, self._clamp = up, clamp
        self.affine = Linear(w_dim, in_channels, initial_bias=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(side_px, side_px))
        self.register_buffer("resample_filter", _low_pass())

    def forward(self, x_BIHH: Tensor, w_BW: Tensor, noise: Tensor | None) -> Tensor:
        # Scaling what enters and what leaves is the same as scaling the weights, but all faces share one
        # convolution. A positive gain passes through the leaky ReLU, so it costs nothing either.
        gain = math.sqrt(2)
        style_BI = self.affine(w_BW)
        energy_OI = self.weight.square().sum(dim=(2, 3))
        demodulation_BO = (style_BI.square() @ energy_OI.T + 1e-8).rsqrt()
        x = self._convolved(x_BIHH * style_BI[:, :, None, None])
        x = torch.addcmul(gain * self.bias[:, None, None], x, gain * demodulation_BO[:, :, None, None])
        if noise is not None:
            x = x + noise * (gain * self.noise_strength)
        return _clamped(F.leaky_relu(x, 0.2), self._clamp)

    def _convolved(self, x: Tensor) -> Tensor:
        if not self._up:
            return F.conv2d(x, self.weight, padding=1)
        x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
        filters_O144 = (4 * self.resample_filter).flip(0, 1).expand(len(self.weight), 1, -1, -1)
        return F.conv2d(x, filters_O144, padding=1, groups=len(self.weight))


class ToRGB(nn.Module):
    """Reads colours off the channels, by weights that each face modulates by its own w."""

    def __init__(self, in_channels: int, *, w_dim: int, clamp: float | None):
        super().__init__()
        self._clamp, self._gain = clamp, 1 / math.sqrt(in_channels)
        self.affine = Linear(w_dim, in_channels, initial_bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x_BIHH: Tensor, w_BW: Tensor) -> Tensor:
        style_BI = self.affine(w_BW) * self._gain
        weight_B3I = self.weight.flatten(1) * style_BI[:, None]
        colours_B3HH = (weight_B3I @ x_BIHH.flatten(2)).unflatten(2, x_BIHH.shape[2:])
        return _clamped(colours_B3HH + self.bias[:, None, None], self._clamp)


def _normalised(x_BD: Tensor) -> Tensor:
    return x_BD * (x_BD.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def _clamped(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)


def _low_pass() -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64
