"""A StyleGAN2 read off its equations: face by face, zeros written out, in float64."""

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
FILTER = torch.outer(TAPS, TAPS) / 64


def shapes(
    *, resolution: int, channel_base: int, channel_max: int, z_dim: int, c_dim: int, w_dim: int, layers: int
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a file of NVIDIA's."""
    named: dict[str, tuple[int, ...]] = {"mapping.w_avg": (w_dim,)}
    if c_dim:
        named |= {"mapping.embed.weight": (w_dim, c_dim), "mapping.embed.bias": (w_dim,)}
    for number in range(layers):
        width = w_dim if number else z_dim + (w_dim if c_dim else 0)
        named |= {f"mapping.fc{number}.weight": (w_dim, width), f"mapping.fc{number}.bias": (w_dim,)}
    side, before = 4, 0
    while side <= resolution:
        width, block = min(channel_base // side, channel_max), f"synthesis.b{side}"
        named[f"{block}.resample_filter"] = (4, 4)
        if side == 4:
            named[f"{block}.const"] = (width, 4, 4)
        for conv, entering in (("conv0", before), ("conv1", width)):
            if entering:
                named |= {
                    f"{block}.{conv}.weight": (width, entering, 3, 3),
                    f"{block}.{conv}.bias": (width,),
                    f"{block}.{conv}.noise_const": (side, side),
                    f"{block}.{conv}.noise_strength": (),
                    f"{block}.{conv}.resample_filter": (4, 4),
                    f"{block}.{conv}.affine.weight": (entering, w_dim),
                    f"{block}.{conv}.affine.bias": (entering,),
                }
        named |= {
            f"{block}.torgb.weight": (3, width, 1, 1),
            f"{block}.torgb.bias": (3,),
            f"{block}.torgb.affine.weight": (width, w_dim),
            f"{block}.torgb.affine.bias": (width,),
        }
        side, before = 2 * side, width
    return named


def random_tensors(seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    """Random values everywhere, also where training starts from zeros."""
    rng = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=rng) for name, shape in shapes(**sizes).items()}
    for name in tensors:
        if name.endswith("resample_filter"):
            tensors[name] = FILTER.float()
        elif re.fullmatch(r"mapping\.fc\d+\.(weight|bias)", name):
            tensors[name] *= 100  # as NVIDIA keeps them: they are used at a hundredth
    return tensors


def normalised(x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean() + 1e-8)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def limited(x: Tensor, clamp: float | None) -> Tensor:
    return x if clamp is None else torch.minimum(torch.maximum(x, torch.tensor(-clamp)), torch.tensor(clamp))


def linear(tensors: dict[str, Tensor], name: str, x: Tensor, gain: float = 1.0) -> Tensor:
    weight, bias = tensors[f"{name}.weight"].double(), tensors[f"{name}.bias"].double()
    return weight @ x * gain / math.sqrt(len(x)) + bias * gain


def mapped(
    tensors: dict[str, Tensor], z_BZ: Tensor, classes: list[int] | None = None, *, psi: float = 1.0
) -> Tensor:
    rows = []
    for number, z in enumerate(z_BZ.double()):
        x = normalised(z)
        if classes is not None:
            one_hot = torch.zeros(tensors["mapping.embed.weight"].shape[1], dtype=torch.float64)
            one_hot[classes[number]] = 1
            x = torch.cat([x, normalised(linear(tensors, "mapping.embed", one_hot))])
        layer = 0
        while f"mapping.fc{layer}.weight" in tensors:
            x = leaky(linear(tensors, f"mapping.fc{layer}", x, gain=0.01))
            layer += 1
        mean = tensors["mapping.w_avg"].double()
        rows.append(mean + psi * (x - mean))
    return torch.stack(rows)


def zeros_between(x: Tensor, *, after: int) -> Tensor:
    """Every pixel followed by a zero, to the right and below; the last one by `after` zeros."""
    channels, side, _ = x.shape
    spread = torch.zeros(channels, 2 * side - 1 + after, 2 * side - 1 + after, dtype=x.dtype)
    spread[:, : 2 * side - 1 : 2, : 2 * side - 1 : 2] = x
    return spread


def smoothed(x: Tensor, *, before: int, after: int) -> Tensor:
    """Each channel under four times the low-pass filter. It is its own mirror image."""
    padded = F.pad(x, (before, after, before, after))
    return torch.stack([F.conv2d(plane[None, None], 4 * FILTER[None, None])[0, 0] for plane in padded])


def convolved(
    tensors: dict[str, Tensor], name: str, x: Tensor, w: Tensor, noise: Tensor | None, clamp: float | None
) -> Tensor:
    style = linear(tensors, f"{name}.affine", w)
    weight = tensors[f"{name}.weight"].double() * style[None, :, None, None]
    weight = weight / torch.sqrt((weight**2).sum(dim=(1, 2, 3), keepdim=True) + 1e-8)
    if name.endswith("conv0"):
        # A full convolution, which reads the weights backwards.
        spread = F.pad(zeros_between(x, after=0), (2, 2, 2, 2))
        x = smoothed(F.conv2d(spread[None], weight.flip(2, 3))[0], before=1, after=1)
    else:
        x = F.conv2d(x[None], weight, padding=1)[0]
    if noise is not None:
        x = x + noise.double() * tensors[f"{name}.noise_strength"].double()
    return limited(leaky(x + tensors[f"{name}.bias"].double()[:, None, None]), clamp)


def colours(tensors: dict[str, Tensor], name: str, x: Tensor, w: Tensor, clamp: float | None) -> Tensor:
    style = linear(tensors, f"{name}.affine", w) / math.sqrt(len(x))
    weight = tensors[f"{name}.weight"].double()[:, :, 0, 0] * style
    return limited(
        torch.einsum("ci,ihw->chw", weight, x) + tensors[f"{name}.bias"].double()[:, None, None], clamp
    )


def drawn(
    tensors: dict[str, Tensor],
    ws_BLW: Tensor,
    noise: list[Tensor] | None = None,
    *,
    clamp: float | None = None,
) -> Tensor:
    """Images of shape (B, 3, H, H), not limited.

    Args:
        noise: By layer, each of shape (B, 1, H, H). None: the stored noise.
    """
    images = []
    for face, ws in enumerate(ws_BLW.double()):

        def conv(name: str, x: Tensor, layer: int, face: int = face, ws: Tensor = ws) -> Tensor:
            added = tensors[f"{name}.noise_const"] if noise is None else noise[layer][face, 0]
            return convolved(tensors, name, x, ws[layer], added, clamp)

        x = conv("synthesis.b4.conv1", tensors["synthesis.b4.const"].double(), 0)
        image = colours(tensors, "synthesis.b4.torgb", x, ws[1], clamp)
        side, layer = 8, 1
        while f"synthesis.b{side}.torgb.weight" in tensors:
            x = conv(f"synthesis.b{side}.conv0", x, layer)
            x = conv(f"synthesis.b{side}.conv1", x, layer + 1)
            layer += 2
            # Zero insertion leaves a zero behind the last pixel, too.
            image = smoothed(zeros_between(image, after=1), before=2, after=1)
            image = image + colours(tensors, f"synthesis.b{side}.torgb", x, ws[layer], clamp)
            side *= 2
        images.append(image)
    return torch.stack(images)
