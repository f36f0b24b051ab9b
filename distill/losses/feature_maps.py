"""Which stages of two networks are compared, and at what size.

B: batch; K, H, W: channels, height and width of a feature map
"""

from collections.abc import Sequence
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor

Stage = TypeVar("Stage")


def paired_from_last(student: Sequence[Stage], teacher: Sequence[Stage]) -> list[tuple[Stage, Stage]]:
    """Pairs stages from the last backwards, first pair first. The deeper network's early stages have none.

    Raises:
        ValueError: If a network has no stage.
    """
    count = min(len(student), len(teacher))
    if count == 0:
        raise ValueError(
            f"stages must be given of both networks, got {len(student)} of the student and {len(teacher)} "
            "of the teacher"
        )
    return list(zip(student[-count:], teacher[-count:], strict=True))


def at_smaller_size(student_BKHW: Tensor, teacher_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps, averaged down to the smaller height and the smaller width of the two."""
    heights, widths = zip(student_BKHW.shape[2:], teacher_BKHW.shape[2:], strict=True)
    size = (min(heights), min(widths))
    return _averaged_to(student_BKHW, size), _averaged_to(teacher_BKHW, size)


def _averaged_to(map_BKHW: Tensor, size: tuple[int, int]) -> Tensor:
    return map_BKHW if map_BKHW.shape[2:] == size else F.adaptive_avg_pool2d(map_BKHW, size)
