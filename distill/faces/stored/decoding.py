"""Stores whose images are encoded, as JPEG or PNG, and decoded by several threads.

Pillow lets go of the interpreter while it decodes, so that threads are enough.

N: images of the store, B: those asked for, H: side of the images
"""

import io
import os
import threading
from abc import abstractmethod
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from distill.errors import InputError
from distill.faces.store import ImageStore

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_PIXELS = 2**26
"""Images of more pixels are refused before they are decoded: a few kilobytes can claim gigabytes."""
NUM_EXPECTED = 2
"""Batches that are decoded ahead: while one is waited for, the next is begun."""
IMAGES_PER_JOB = 64
FEW_IMAGES = 1000
NUM_NAMED = 5


class UnreadableImageError(ValueError):
    """One image of a store is damaged; the message says how."""


@dataclass(frozen=True, kw_only=True)
class CorruptImages:
    """What could not be read so far, in this process.

    Attributes:
        count: Distinct images that could not be read.
        num_read: Distinct images that were asked for, those among them.
        names: The first few of them, and what is wrong with each.
    """

    count: int = 0
    num_read: int = 0
    names: tuple[str, ...] = ()


NONE_CORRUPT = CorruptImages()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    """Images on their way: `jobs` fill `images`, and tell why they left some out, by place."""

    process: int
    index_B: Tensor
    images: np.ndarray
    jobs: list[Future[dict[int, str]]]


class EncodedStore(ImageStore):
    """Encoded images, each of which is brought to `size_px` when it is read.

    As many threads decode as torch computes with, for all stores of a process together. An image of another
    size is resized, so that its short side fits, by a bilinear kernel as wide as the reduction, and its
    centre is cropped. Images that cannot be read are counted, each once, in each process from its own start.

    Args:
        source: What the images come from, for messages.
        num_images: N.
        size_px: H.
        max_corrupt_share: Share of the distinct images read so far that may be unreadable. Up to a thousand
            images, or to the whole set, it is that share of those: one early accident ends nothing.
        lost: What is known to be unreadable and is not among the N, but counts.

    Raises:
        InputError: If too many are lost.
    """

    def __init__(
        self,
        *,
        source: str,
        num_images: int,
        size_px: int,
        max_corrupt_share: float,
        lost: CorruptImages = NONE_CORRUPT,
    ):
        self.source, self.size_px, self.max_corrupt_share = source, size_px, max_corrupt_share
        self._num_images, self._lost = num_images, lost
        self._start_afresh()
        self._check_share()

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The file of an image.

        Raises:
            UnreadableImageError, OSError: If it is damaged or gone.
        """

    @abstractmethod
    def name_of(self, index: int) -> str:
        """By what a person finds the image."""

    def __len__(self) -> int:
        return self._num_images

    def read(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        batch = self._take_expected(index_B) or self._begin(index_B)
        reasons: dict[int, str] = {}
        for job in batch.jobs:
            reasons |= job.result()
        self._count(index_B.tolist(), reasons)
        readable_B = torch.ones(len(index_B), dtype=torch.bool)
        readable_B[list(reasons)] = False
        return torch.from_numpy(batch.images), readable_B

    def expect(self, index_B: Tensor) -> None:
        batch = self._begin(index_B.clone())
        with self._lock:
            self._expected.append(batch)
            forgotten = self._expected.popleft() if len(self._expected) > NUM_EXPECTED else None
        for job in forgotten.jobs if forgotten else ():
            job.cancel()

    @property
    def corrupt(self) -> CorruptImages:
        """What could not be read so far."""
        return self._corrupt

    def __getstate__(self) -> dict[str, Any]:
        of_process = ("_lock", "_expected", "_is_read_N", "_corrupt")
        return {name: value for name, value in vars(self).items() if name not in of_process}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._expected: deque[_Batch] = deque()
        self._is_read_N = np.zeros(self._num_images, dtype=bool)
        self._corrupt = self._lost

    def _begin(self, index_B: Tensor) -> _Batch:
        index = index_B.tolist()
        # Colours lie together, as Pillow has them and networks like them: nothing is brought into order.
        images = np.empty((len(index), self.size_px, self.size_px, 3), dtype=np.uint8).transpose(0, 3, 1, 2)
        num_threads = torch.get_num_threads()
        pool = _pool(os.getpid(), num_threads)
        per_job = max(1, min(IMAGES_PER_JOB, -(-len(index) // num_threads)))
        jobs = [
            pool.submit(self._decode, index, images, range(start, min(start + per_job, len(index))))
            for start in range(0, len(index), per_job)
        ]
        return _Batch(process=os.getpid(), index_B=index_B, images=images, jobs=jobs)

    def _take_expected(self, index_B: Tensor) -> _Batch | None:
        with self._lock:
            for batch in self._expected:
                # What was begun before a fork is never finished in the child.
                if batch.process == os.getpid() and torch.equal(batch.index_B, index_B):
                    self._expected.remove(batch)
                    return batch
            return None

    def _decode(self, index: list[int], images: np.ndarray, places: range) -> dict[int, str]:
        """Decodes some images of a batch into their places; returns why it could not, by place."""
        reasons = {}
        for place in places:
            try:
                images[place] = decode(self.encoded(index[place]), size_px=self.size_px)
            except Exception as error:  # a damaged image may raise anything
                reasons[place] = _reason(error)
                images[place] = 0
        return reasons

    def _count(self, index: list[int], reasons: dict[int, str]) -> None:
        reason_of = {index[place]: reason for place, reason in reasons.items()}
        with self._lock:
            new = [i for i in dict.fromkeys(index) if not self._is_read_N[i]]
            corrupt = [f"{self.name_of(i)} ({reason_of[i]})" for i in new if i in reason_of]
            self._is_read_N[new] = True
            self._corrupt = CorruptImages(
                count=self._corrupt.count + len(corrupt),
                num_read=self._corrupt.num_read + len(new),
                names=(*self._corrupt.names, *corrupt)[:NUM_NAMED],
            )
        if reasons:
            self._check_share()

    def _check_share(self) -> None:
        corrupt = self._corrupt
        few = min(FEW_IMAGES, len(self) + self._lost.count)
        if corrupt.count > self.max_corrupt_share * max(corrupt.num_read, few):
            raise InputError(
                f"{self.source} has {corrupt.count:,} unreadable images among the {corrupt.num_read:,} read "
                f"so far, more than max_corrupt_share ({self.max_corrupt_share:g}) allows; the first is "
                f"{corrupt.names[0]}"
            )


def decode(encoded: bytes, *, size_px: int) -> np.ndarray:
    """One image, RGB, uint8, of shape (3, size_px, size_px), as `EncodedStore` describes.

    Raises:
        UnreadableImageError: If it has too many pixels.
        Exception: Whatever Pillow raises where an image is damaged.
    """
    with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UnreadableImageError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
        if min(width, height) >= 4 * size_px:
            # A JPEG of photograph size decodes several times faster at a half, a quarter or an eighth of its
            # side; twice the side is kept for the kernel below.
            image.draft(None, (2 * size_px, 2 * size_px))
            width, height = image.size
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        if (width, height) != (size_px, size_px):
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            rgb = rgb.resize(
                (size_px, size_px),
                Image.Resampling.BILINEAR,
                box=(left, top, left + side, top + side),
            )
        pixels = np.frombuffer(rgb.tobytes(), dtype=np.uint8)
        return pixels.reshape(size_px, size_px, 3).transpose(2, 0, 1)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is none of {', '.join(FORMATS)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@lru_cache(maxsize=1)
def _pool(process: int, num_threads: int) -> ThreadPoolExecutor:
    """The threads of a process; others where it was forked, or torch was told another number."""
    del process
    return ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
