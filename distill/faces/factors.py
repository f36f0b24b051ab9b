"""What decides a face of the embedded world: one named factor for each entry of w.

A factor squashes its entry of w into its range by the normal distribution function, so that a standard
normal w spreads it evenly and no real number leaves it. Identity factors come first and stay the same over
all images of a person; nuisance factors change from image to image. Demographic groups shift and narrow the
distribution of w; the picture itself knows no groups.

B: batch, I: identity factors, W: all factors, G: groups
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor


class Factor(NamedTuple):
    """One property of a face and the range of its values. Lengths are in half image sides."""

    name: str
    low: float
    high: float


MAX_BLUR = 0.085
"""Standard deviation of the strongest blur. The passes that make it are laid out for it."""

IDENTITY_FACTORS = (
    Factor("skin_tone", 0.0, 1.0),
    Factor("skin_warmth", -1.0, 1.0),
    Factor("hair_tone", 0.0, 1.0),
    Factor("hair_red", 0.0, 1.0),
    Factor("eye_tone", 0.0, 1.0),
    Factor("lip_red", 0.0, 1.0),
    Factor("head_width", 0.50, 0.60),
    Factor("head_length", 0.64, 0.78),
    Factor("jaw_taper", 0.12, 0.44),
    Factor("jaw_square", 0.0, 0.9),
    Factor("ear_size", 0.07, 0.13),
    Factor("hairline", -0.53, -0.37),
    Factor("hair_arch", 0.4, 2.4),
    Factor("hair_part", -0.25, 0.25),
    Factor("hair_fringe", 0.0, 1.0),
    Factor("hair_volume", 0.02, 0.20),
    Factor("hair_length", -0.5, 1.2),
    Factor("hair_curl", 0.0, 1.0),
    Factor("eye_spacing", 0.2, 0.275),
    Factor("eye_height", -0.12, -0.01),
    Factor("eye_width", 0.095, 0.14),
    Factor("eye_opening", 0.036, 0.072),
    Factor("eye_slant", -0.22, 0.30),
    Factor("brow_height", 0.10, 0.19),
    Factor("brow_thickness", 0.010, 0.038),
    Factor("brow_slant", -0.16, 0.16),
    Factor("brow_arch", 0.0, 6.0),
    Factor("nose_length", 0.22, 0.36),
    Factor("nose_width", 0.055, 0.115),
    Factor("nose_bridge", 0.0, 1.0),
    Factor("mouth_drop", 0.13, 0.21),
    Factor("mouth_width", 0.12, 0.22),
    Factor("upper_lip", 0.018, 0.055),
    Factor("lower_lip", 0.025, 0.075),
    Factor("beard", 0.0, 1.0),
    Factor("freckles", 0.0, 1.0),
    Factor("mole", 0.0, 1.0),
    Factor("mole_x", -0.36, 0.36),
    Factor("mole_y", 0.05, 0.50),
    Factor("wrinkles", 0.0, 1.0),
)

NUISANCE_FACTORS = (
    Factor("yaw", -0.72, 0.72),
    Factor("pitch", -0.40, 0.40),
    Factor("roll", -0.24, 0.24),
    Factor("shift_x", -0.10, 0.10),
    Factor("shift_y", -0.12, 0.08),
    Factor("scale", 1.0, 1.22),
    Factor("light_x", -0.50, 0.50),
    Factor("light_y", -0.42, 0.18),
    Factor("exposure", 0.66, 1.25),
    Factor("temperature", -1.0, 1.0),
    Factor("contrast", 0.60, 1.10),
    Factor("smile", -0.35, 1.0),
    Factor("mouth_open", -1.2, 1.0),
    Factor("brow_raise", -0.03, 0.06),
    Factor("eyelids", 0.45, 1.15),
    Factor("gaze", -1.0, 1.0),
    Factor("background", 0.0, 1.0),
    Factor("background_angle", -1.0, 1.0),
    Factor("clothing", 0.0, 1.0),
    Factor("glasses", 0.0, 1.0),
    Factor("mask", 0.0, 1.0),
    Factor("obstacle", 0.0, 1.0),
    Factor("obstacle_x", -1.0, 1.0),
    Factor("blur", -0.1, MAX_BLUR),
    Factor("noise", 0.00, 0.16),
)

FACTORS = IDENTITY_FACTORS + NUISANCE_FACTORS
NUM_IDENTITY_FACTORS = len(IDENTITY_FACTORS)
POSITIONS = {factor.name: position for position, factor in enumerate(FACTORS)}


@dataclass(frozen=True, kw_only=True)
class Group:
    """How a demographic group's faces differ from the world's average.

    Attributes:
        name: A neutral name.
        shift: By how much each named factor's mean differs, in entries of w.
        identity_spread: Standard deviation of the identity factors around the group's mean.
    """

    name: str
    shift: dict[str, float]
    identity_spread: float


# Shape and colour make no group hard to recognise, but alikeness (group_c) and poor photographs (group_d) do.
GROUPS = (
    Group(
        name="group_a",
        shift={"skin_tone": -0.7, "hair_tone": 0.5, "eye_tone": 0.5, "nose_width": -0.4, "head_length": 0.3},
        identity_spread=0.74,
    ),
    Group(
        name="group_b",
        shift={"skin_tone": 0.9, "hair_curl": 0.7, "upper_lip": 0.5, "lower_lip": 0.4, "blur": 0.2},
        identity_spread=0.64,
    ),
    Group(
        name="group_c",
        shift={"skin_tone": -0.1, "hair_tone": -0.7, "eye_slant": 0.6, "brow_arch": -0.5, "contrast": -0.3},
        identity_spread=0.40,
    ),
    Group(
        name="group_d",
        shift={"skin_tone": 0.3, "brow_thickness": 0.6, "nose_length": 0.4}
        | {"blur": 0.9, "contrast": -0.9, "exposure": -0.5, "noise": 0.7, "mask": 0.5},
        identity_spread=0.60,
    ),
)


def group_shifts() -> Tensor:
    """Each group's mean of w, of shape (G, W)."""
    shifts_GW = torch.zeros(len(GROUPS), len(FACTORS), dtype=torch.float64)
    for group, shift_W in zip(GROUPS, shifts_GW, strict=True):
        for name, shift in group.shift.items():
            shift_W[POSITIONS[name]] = shift
    return shifts_GW


def identity_draws(identities_B: Tensor) -> Tensor:
    """Standard normal draws that an identity's number decides alone, of shape (B, I), float64.

    Args:
        identities_B: Identities, int64, each in [0, 2**32 / (2 I)).
    """
    counters_BI = identities_B.unsqueeze(1) * NUM_IDENTITY_FACTORS + torch.arange(
        NUM_IDENTITY_FACTORS, device=identities_B.device
    )
    return torch.special.ndtri((hash_32(counters_BI).double() + 0.5) / 2**32)


def hash_32(keys: Tensor) -> Tensor:
    """Scrambles int64 keys in [0, 2**32) into the same range (two multiply-xorshift rounds)."""
    keys = ((keys >> 16) ^ keys) * 0x45D9F3B & 0xFFFFFFFF
    keys = ((keys >> 16) ^ keys) * 0x45D9F3B & 0xFFFFFFFF
    return (keys >> 16) ^ keys


def factor_values(w_BW: Tensor) -> SimpleNamespace:
    """Squashes w into every factor's range: one attribute a factor, of shape (B, 1, 1, 1), float32."""
    # In float64, because vectorised and scalar float32 code round differently: the same face would depend
    # on its place in the batch.
    low_W, high_W = w_BW.new_tensor([(f.low, f.high) for f in FACTORS], dtype=torch.float64).unbind(1)
    values_BW = torch.lerp(low_W, high_W, torch.special.ndtr(w_BW.double())).float()
    columns = values_BW[:, :, None, None, None].unbind(1)
    return SimpleNamespace(**{factor.name: column for factor, column in zip(FACTORS, columns, strict=True)})
