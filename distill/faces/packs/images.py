"""Encoded images of strangers to pixels.

N: images, H: side of the images
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from distill.errors import InputError

MAX_PIXELS = 2**24
"""The largest image that is decoded: a few kilobytes may claim to hold gigabytes."""

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # Pillow's others include some that start programs
_NUM_THREADS = min(8, os.cpu_count() or 1)


def decode_all(images: Sequence[tuple[bytes | Path, str]], *, size_px: int) -> Tensor:
    """Decodes images, each given as its bytes or its file, and as what it is called in messages.

    Of an image that is not of `size_px`, the largest square in the middle is resized to it, by the bilinear
    kernel, which is widened where it reduces.

    Returns:
        RGB, uint8, of shape (N, 3, H, H).

    Raises:
        InputError: If an image cannot be decoded, or has more than `MAX_PIXELS`.
    """
    images_NCHW = torch.empty(len(images), 3, size_px, size_px, dtype=torch.uint8)
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        decoded = threads.map(lambda image: _decode(*image, size_px=size_px), images)
        for place, pixels_HWC in enumerate(decoded):
            images_NCHW[place] = torch.from_numpy(pixels_HWC).permute(2, 0, 1)
    return images_NCHW


def _decode(source: bytes | Path, title: str, *, size_px: int) -> np.ndarray:
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"{title} has {image.width} x {image.height} pixels, at most {MAX_PIXELS:,} are decoded"
                )
            square = ImageOps.fit(image.convert("RGB"), (size_px, size_px), Image.Resampling.BILINEAR)
            return np.array(square)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{title} cannot be decoded: it is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # a damaged image may raise anything
        raise InputError(f"{title} cannot be decoded ({error})") from error
