"""Writes packs as MXNet's tools do, after the format's description alone, and small images to put in them."""

import io
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

MAGIC = struct.pack("<I", 0xCED7230A)


def write_records(path: Path, records: Iterable[tuple[int, bytes]]) -> dict[int, int]:
    """Writes payloads by key, in this order, and the index beside them; returns the offsets by key."""
    offsets = {}
    with path.open("wb") as file:
        for key, payload in records:
            offsets[key] = file.tell()
            file.write(record(payload))
    write_index(path, offsets)
    return offsets


def write_index(path: Path, offsets: dict[int, int]) -> None:
    path.with_suffix(".idx").write_text("".join(f"{key}\t{offset}\n" for key, offset in offsets.items()))


def record(payload: bytes) -> bytes:
    """Cuts the payload wherever the magic number lies at a multiple of 4, and leaves it out there."""
    parts, start = [], 0
    for place in range(0, len(payload) - 3, 4):
        if payload[place : place + 4] == MAGIC:
            parts.append(payload[start:place])
            start = place + 4
    parts.append(payload[start:])
    numbers = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(
        MAGIC + struct.pack("<I", number << 29 | len(part)) + part + bytes(-len(part) % 4)
        for number, part in zip(numbers, parts, strict=True)
    )


def payload(image: bytes, label: float | Sequence[float], *, number: int = 0) -> bytes:
    """An image with one label, or a vector of them."""
    if isinstance(label, Sequence):
        head = struct.pack("<IfQQ", len(label), 0, number, 0)
        return head + struct.pack(f"<{len(label)}f", *label) + image
    return struct.pack("<IfQQ", 0, label, number, 0) + image


def write_with_header(
    path: Path, images_of: Sequence[Sequence[bytes]], *, aligned: bool = False
) -> dict[int, int]:
    """InsightFace's dialect: images of each identity from key 1 on, then identities, then key 0.

    Args:
        aligned: Whether an image has two labels, its class and 1.
    """
    records, ranges, key = [], [], 1
    for identity, images in enumerate(images_of):
        ranges.append((key, key + len(images)))
        for image in images:
            records.append((key, payload(image, (identity, 1) if aligned else identity, number=key)))
            key += 1
    first_identity = key
    records += [(first_identity + k, payload(b"", ends, number=k)) for k, ends in enumerate(ranges)]
    records.append((0, payload(b"", (first_identity, first_identity + len(ranges)))))
    return write_records(path, records)


def picture(seed: int, *, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    """Smooth colours, uint8, of shape (height, width, 3), which JPEG keeps within a few levels."""
    width, height = size
    corner = np.random.default_rng(seed).uniform(0, 255, (2, 2, 3))
    y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    top = corner[0, 0] * (1 - x) + corner[0, 1] * x
    bottom = corner[1, 0] * (1 - x) + corner[1, 1] * x
    return (top * (1 - y) + bottom * y).round().astype(np.uint8)


def encode(pixels: np.ndarray, format: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **{"quality": 95, **options})
    return file.getvalue()


def jpeg(seed: int, *, size: tuple[int, int] = (16, 16)) -> bytes:
    return encode(picture(seed, size=size))
