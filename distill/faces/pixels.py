"""Between faces as networks see them, in [-1, 1], and as they are kept, in bytes."""

from torch import Tensor


def as_bytes(images: Tensor) -> Tensor:
    """Pixels in [-1, 1] to the nearest of 256 levels, uint8."""
    return images.add(1).mul_(127.5).round_().byte()


def as_floats(images: Tensor) -> Tensor:
    """Pixels in uint8 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1
