"""Small pictures that tell one another apart, and packs as Python 2 wrote them."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

SMALL_LFW = Path(__file__).parents[3] / "data" / "small_lfw.bin"


def picture(seed: int, *, size: tuple[int, int] = (12, 12)) -> Image.Image:
    """Coarse noise, so that a JPEG of it keeps it; `size` is width and height."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    stream = BytesIO()
    image.save(stream, format)
    return stream.getvalue()


def python_2_pack(images: list[bytes], issame: list[bool], *, protocol: int) -> bytes:
    """The bytes that Python 2 writes for a tuple of a list of str and a list of bool."""
    if protocol == 0:
        items = b"".join(b"S%s\np%d\na" % (repr(image)[1:].encode(), i + 1) for i, image in enumerate(images))
        answers = b"".join(b"I%02d\na" % answer for answer in issame)
        return b"((lp0\n" + items + b"(lp100\n" + answers + b"tp101\n."
    items = b"".join(
        b"T" + struct.pack("<i", len(image)) + image + b"q" + bytes([i + 1]) for i, image in enumerate(images)
    )
    answers = b"".join(b"\x88" if answer else b"\x89" for answer in issame)
    return b"\x80\x02]q\x00(" + items + b"e]q\x64(" + answers + b"e\x86q\x65."


def python_2_array_pack(images: list[bytes], issame: list[bool]) -> bytes:
    """As `python_2_pack` by protocol 0, with arrays of NumPy in place of str and of the list of answers."""

    def array(content: bytes, kind: bytes, shape: bytes) -> bytes:
        return (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
            + b"(%st" % shape
            + b"cnumpy\ndtype\n(S'%s'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\n" % kind
            + b"S%s\ntb" % repr(content)[1:].encode()
        )

    items = b"".join(array(image, b"u1", b"I%d\nI1\n" % len(image)) + b"a" for image in images)
    return b"((l" + items + array(bytes(issame), b"b1", b"I%d\n" % len(issame)) + b"t."
