"""Per-pixel noise of one face: a function of the face's number, the layer and the pixel alone.

A random stream would make a face depend on what was drawn before it. A hash of a counter does not, and is
computed for a whole batch at once.

B: batch, P: pixels
"""

import math

import torch
from torch import Tensor

from distill.faces.factors import hash_32


def face_noise(seed_B: Tensor, *, layer: int, side_px: int) -> Tensor:
    """Standard normal noise of shape (B, 1, H, H), float32.

    Args:
        seed_B: One number in [0, 1) a face.
        layer: Number of the layer; noise of different layers is unrelated.
        side_px: H, even.
    """
    salts_2 = hash_32(torch.tensor([2 * layer + 1, 2 * layer + 2], device=seed_B.device))
    seeds_B1 = (seed_B.double() * 2**32).long().unsqueeze(1)
    # Two keys a stream: with one, some pairs of streams would be the same numbers, shifted.
    start_B1, mask_B1 = hash_32(seeds_B1 ^ salts_2).split(1, dim=1)
    counter_P = torch.arange(side_px * side_px, device=seed_B.device)
    bits_BP = hash_32(hash_32((start_B1 + counter_P) & 0xFFFFFFFF) ^ mask_B1)
    # The Box-Muller transform makes two normal numbers of two uniform ones.
    radius, angle = ((bits_BP.float() + 0.5) / 2**32).chunk(2, dim=1)
    radius, angle = (-2 * radius.log()).sqrt(), 2 * math.pi * angle
    noise_BP = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return noise_BP.view(-1, 1, side_px, side_px)
