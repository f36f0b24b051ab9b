"""Low-resolution views of faces: what a student meets where the camera is far away.

Shin et al., "Enhancing Low-Resolution Face Recognition with Feature Similarity Knowledge Distillation", 2023.
https://arxiv.org/abs/2303.04681 (F-SKD). Its loader reduces each face and enlarges it again, each time with
a kernel drawn from nearest, bilinear, area, bicubic and Lanczos4. Torch lacks Lanczos4: four are left.

B: batch, C: channels, H: side of the faces that come in
"""

from dataclasses import dataclass
from typing import Self, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

RESOLUTIONS_PX = (16, 24, 32, 48, 64, 96)
KERNELS = ("nearest", "bilinear", "area", "bicubic")
SMOOTH_KERNELS = ("bilinear", "bicubic")
"""Kernels that torch can widen with the reduction, so that no pixel of the face is skipped."""

Rows: TypeAlias = slice | Tensor


@dataclass(frozen=True, kw_only=True)
class DegradationDraws:
    """How each face of a batch is degraded. Tensors on the CPU, int64, of shape (B,).

    Attributes:
        size_px_B: Side that the face is reduced to.
        reduce_kernel_B: What it is reduced with, an index of `KERNELS`.
        enlarge_kernel_B: What it is enlarged with afterwards, an index of `KERNELS`.
    """

    size_px_B: Tensor
    reduce_kernel_B: Tensor
    enlarge_kernel_B: Tensor

    def __len__(self) -> int:
        return len(self.size_px_B)

    def __getitem__(self, rows: Rows) -> Self:
        """The draws of some faces: a worker draws for the whole batch and keeps its own rows."""
        return type(self)(
            size_px_B=self.size_px_B[rows],
            reduce_kernel_B=self.reduce_kernel_B[rows],
            enlarge_kernel_B=self.enlarge_kernel_B[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """Reduces faces to random resolutions with random kernels.

    Args:
        resolutions_px: Sides that are drawn from, all equally often.
        out_px: Side of the views: a smaller resolution is enlarged to it.

    Raises:
        ValueError: If there is no resolution, or one is not in [1, out_px].
    """

    resolutions_px: tuple[int, ...] = RESOLUTIONS_PX
    out_px: int

    def __post_init__(self) -> None:
        if not self.resolutions_px or not all(1 <= size_px <= self.out_px for size_px in self.resolutions_px):
            raise ValueError(
                f"resolutions_px must name sides in [1, out_px={self.out_px}], got {self.resolutions_px}"
            )

    def draw(self, num_faces: int, generator: torch.Generator) -> DegradationDraws:
        """Draws resolution and kernels of `num_faces` faces from a random stream on the CPU."""
        choice_B, reduce_kernel_B, enlarge_kernel_B = (
            torch.randint(num_choices, (num_faces,), generator=generator)
            for num_choices in (len(self.resolutions_px), len(KERNELS), len(KERNELS))
        )
        return DegradationDraws(
            size_px_B=torch.tensor(self.resolutions_px)[choice_B],
            reduce_kernel_B=reduce_kernel_B,
            enlarge_kernel_B=enlarge_kernel_B,
        )

    def __call__(self, images_BCHW: Tensor, draws: DegradationDraws) -> Tensor:
        """`degrade`s each face as was drawn for it; returns views of shape (B, C, out_px, out_px)."""
        return degrade(
            images_BCHW,
            size_px_B=draws.size_px_B,
            reduce_kernel_B=draws.reduce_kernel_B,
            enlarge_kernel_B=draws.enlarge_kernel_B,
            out_px=self.out_px,
        )


def degrade(
    images_BCHW: Tensor,
    *,
    size_px_B: Tensor,
    reduce_kernel_B: Tensor,
    enlarge_kernel_B: Tensor,
    out_px: int,
) -> Tensor:
    """Reduces each face to a side of its own, then enlarges it to `out_px`, where that is more.

    A face's view is a function of that face and its own row of the arguments, bit by bit. Bilinear and
    bicubic kernels reduce with antialiasing; what overshoots is clamped, after each of the two directions.

    Args:
        images_BCHW: Square faces in [-1, 1].
        size_px_B: Side that each is reduced to, int64, each in [1, min(H, out_px)].
        reduce_kernel_B: What each is reduced with, an index of `KERNELS`, int64.
        enlarge_kernel_B: What each is enlarged with, an index of `KERNELS`, int64.
        out_px: Side of the views.

    Returns:
        Views of shape (B, C, out_px, out_px), in [-1, 1].

    Raises:
        ValueError: If there are not as many draws as faces, a side is out of range, or a kernel is none.
    """
    keys_3B = torch.stack([size_px_B, reduce_kernel_B, enlarge_kernel_B]).cpu()
    num_faces, channels, height, _ = images_BCHW.shape
    _check(keys_3B, num_faces=num_faces, largest_px=min(height, out_px))
    views = images_BCHW.new_empty(num_faces, channels, out_px, out_px)
    distinct_3G, group_B = torch.unique(keys_3B, dim=1, return_inverse=True)
    for group, (size_px, reduce_kernel, enlarge_kernel) in enumerate(distinct_3G.T.tolist()):
        rows = (group_B == group).nonzero().squeeze(1).to(images_BCHW.device)
        reduced = _reduce(images_BCHW[rows], size_px, kernel=KERNELS[reduce_kernel])
        views[rows] = _enlarge(reduced, out_px, kernel=KERNELS[enlarge_kernel])
    return views


def captured(images_BCHW: Tensor, size_px: int) -> Tensor:
    """The view that a camera of fewer pixels takes, the same every time: what evaluation asks for.

    Args:
        images_BCHW: Square faces in [-1, 1].
        size_px: Side of the views, in [1, H].

    Returns:
        Views of shape (B, C, size_px, size_px), in [-1, 1], reduced by the bicubic kernel with antialiasing.

    Raises:
        ValueError: If `size_px` is out of range.
    """
    height = images_BCHW.shape[-1]
    if not 1 <= size_px <= height:
        raise ValueError(f"size_px must lie in [1, {height}], the side of the faces, got {size_px}")
    return _reduce(images_BCHW, size_px, kernel="bicubic")


def _reduce(images: Tensor, size_px: int, *, kernel: str) -> Tensor:
    return _resize(images, size_px, kernel=kernel, antialias=kernel in SMOOTH_KERNELS)


def _enlarge(images: Tensor, size_px: int, *, kernel: str) -> Tensor:
    return images if images.shape[-1] == size_px else _resize(images, size_px, kernel=kernel, antialias=False)


def _resize(images: Tensor, size_px: int, *, kernel: str, antialias: bool) -> Tensor:
    return F.interpolate(images, size=(size_px, size_px), mode=kernel, antialias=antialias).clamp(-1, 1)


def _check(keys_3B: Tensor, *, num_faces: int, largest_px: int) -> None:
    if keys_3B.shape[1] != num_faces:
        raise ValueError(f"there must be as many draws as faces ({num_faces}), got {keys_3B.shape[1]}")
    for name, index_B, low, high in (
        ("size_px_B", keys_3B[0], 1, largest_px),
        ("reduce_kernel_B", keys_3B[1], 0, len(KERNELS) - 1),
        ("enlarge_kernel_B", keys_3B[2], 0, len(KERNELS) - 1),
    ):
        for index in index_B[(index_B < low) | (index_B > high)][:1].tolist():
            raise ValueError(f"{name} must lie in [{low}, {high}], got {index}")
