"""Angles between embeddings and class centres, as margin losses widen them.

B: batch
"""

import torch
from torch import Tensor

MAX_COSINE = 1 - 1e-6
"""The gradient of an angle is infinite at 0 and at pi: cosines are kept from there."""


def widened(cosine_B: Tensor, margin_rad: float | Tensor) -> Tensor:
    """Cosines of angles that are `margin_rad` wider, cos(theta + m), of shape (B,).

    An angle that the margin would push past pi falls further as a line, cos(theta) - m sin(m), instead of
    turning back: the loss never rewards a worse angle.

    Deng et al., "ArcFace", CVPR 2019. https://arxiv.org/abs/1801.07698

    Args:
        cosine_B: Cosines of the angles, in [-1, 1].
        margin_rad: The margin, one for all or of shape (B,), in [-pi / 2, pi / 2]. A negative one narrows.
    """
    margin = torch.as_tensor(margin_rad, dtype=cosine_B.dtype, device=cosine_B.device)
    cosine_B = cosine_B.clamp(-MAX_COSINE, MAX_COSINE)
    sine_B = (1 - cosine_B.square()).sqrt()
    turned_B = cosine_B * margin.cos() - sine_B * margin.sin()
    past_pi_B = (margin > 0) & (cosine_B <= -margin.cos())
    past_zero_B = (margin < 0) & (cosine_B >= margin.cos())
    fallen_B = torch.where(past_pi_B, cosine_B - margin * margin.sin(), turned_B)
    # A narrowing margin cannot make an angle negative: nothing is nearer than 0.
    return torch.where(past_zero_B, torch.full_like(fallen_B, MAX_COSINE), fallen_B)
