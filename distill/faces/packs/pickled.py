"""Verification packs: the `.bin` files of InsightFace, https://github.com/deepinsight/insightface.

A pack is a pickle of (images, issame): 2P encoded images, of which 2k and 2k + 1 are pair k, and P answers.
The order of the pairs is part of the protocol. Images are bytes, text of Python 2, or uint8 arrays as OpenCV
encodes them; answers are bools or integers, in a list or an array.

A pickle could execute what it names. A pack gets nothing of numpy's, only stand-ins that take what a pack
needs and no more; everything else is refused and named.

P: pairs
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import InputError
from distill.faces.packs.index import Face, Pair
from distill.file_kinds import looks_like
from distill.unpickling import StandIn, load_pickle

MAX_PACK_BYTES = 4 * 2**30
"""The largest pack that is read: it has to fit in memory. LFW and its kin have less than 0.2 GB."""

_ARRAY_CLASS = "numpy.ndarray"
_PLAIN_KINDS = frozenset({"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"})


def read_pack(path: Path) -> list[Pair]:
    """The pairs of a pack, in its order. No image is decoded.

    Raises:
        ForbiddenGlobalError: If it asks for a function or a class that no pack needs. Nothing was called.
        InputError: If it is missing, too large, cut short, something else, or no such tuple.
    """
    kind = looks_like(path)
    if kind != "a pickle":
        raise InputError(f"{path} is no verification pack: it looks like {kind}")
    if (size := path.stat().st_size) > MAX_PACK_BYTES:
        raise InputError(f"{path} has {size:,} bytes, a verification pack at most {MAX_PACK_BYTES:,}")
    pack = _unpickled(path)
    if not (isinstance(pack, tuple | list) and len(pack) == 2 and isinstance(pack[0], tuple | list)):
        raise InputError(f"{path} is no verification pack: its pickle is no pair of images and answers")
    answers = _answers(pack[1], path)
    if len(pack[0]) != 2 * len(answers):
        raise InputError(
            f"{path} must have two images a pair, got {len(pack[0]):,} images and {len(answers):,} pairs"
        )
    faces = [
        Face(source=_encoded(item, f"image {place} of {path}"), title=f"image {place} of {path}")
        for place, item in enumerate(pack[0])
    ]
    return [
        Pair(left=left, right=right, is_genuine=is_genuine)
        for left, right, is_genuine in zip(faces[::2], faces[1::2], answers, strict=True)
    ]


def _unpickled(path: Path) -> Any:
    """Reads text of Python 2 as the bytes it is, once it turns out to be no text."""
    with path.open("rb") as stream:
        try:
            return load_pickle(stream, allowed=_ALLOWED, what=str(path))
        except InputError as error:
            if not isinstance(error.__cause__, UnicodeDecodeError):
                raise
        stream.seek(0)
        return load_pickle(stream, allowed=_ALLOWED, what=str(path), encoding="bytes")


def _answers(issame: Any, path: Path) -> list[bool]:
    answers: Sequence[Any] = issame.values.flatten().tolist() if isinstance(issame, _Array) else issame
    if not isinstance(answers, tuple | list) or not all(
        type(a) in (bool, int) and a in (0, 1) for a in answers
    ):
        raise InputError(f"{path} must say of each pair whether it is genuine, by a bool, 0 or 1")
    return [bool(answer) for answer in answers]


def _encoded(item: Any, title: str) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, _Array) and item.values.dtype == np.uint8 and item.values.shape[1:] in ((), (1,)):
        return item.values.tobytes()
    raise InputError(
        f"{title} is no encoded image: it must be bytes or a uint8 array of shape (n,) or (n, 1)"
    )


class _Array:
    """What a pickle gets for an array: plain numbers, none until it has set the state of one."""

    def __init__(self, values: np.ndarray | None = None):
        self.values = np.empty(0, np.uint8) if values is None else values

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, _is_fortran, content = state
        self.values = _numbers(content, kind, shape)


class _Kind:
    """What a pickle gets for a dtype: bool or integers, in the byte order that its state sets."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        _version, order, subarray, names, fields = state[:5]
        if not (subarray is None and names is None and fields is None):
            raise ValueError("it has arrays of structures")
        self.dtype = self.dtype.newbyteorder(_text(order))  # pyright: ignore[reportArgumentType]


@StandIn
def _empty_array(array_class: Any, shape: Any, kind: Any) -> _Array:
    if array_class != _ARRAY_CLASS or shape != (0,) or _text(kind) != "b":
        raise ValueError(f"it makes an array of shape {shape} before it has the numbers")
    return _Array()


@StandIn
def _array_of_buffer(content: Any, kind: Any, shape: Any, _order: Any) -> _Array:
    return _Array(_numbers(content, kind, shape))


@StandIn
def _scalar(kind: Any, content: Any) -> bool | int:
    return _numbers(content, kind, (1,)).item()


@StandIn
def _kind(name: Any, _align: Any, _copy: Any) -> _Kind:
    if (name := _text(name)) not in _PLAIN_KINDS:
        raise ValueError(f"it has an array of dtype {name}, and a pack needs bools and integers only")
    return _Kind(np.dtype(name))


@StandIn
def _bytes_of_text(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes in protocols that have none. Other codecs decompress, so they are refused."""
    if encoding != "latin1" or not isinstance(text, str):
        raise ValueError(f"it encodes by {encoding}, and bytes are written by latin1 only")
    return text.encode("latin1")


def _numbers(content: Any, kind: Any, shape: Any) -> np.ndarray:
    if not isinstance(content, bytes | bytearray) or not isinstance(kind, _Kind):
        raise ValueError("it has an array of something else than plain numbers")
    return np.frombuffer(content, kind.dtype).reshape(shape)


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


_ALLOWED = {
    ("numpy", "ndarray"): _ARRAY_CLASS,
    ("numpy", "dtype"): _kind,
    ("_codecs", "encode"): _bytes_of_text,
    **{
        (f"numpy.{package}.{module}", name): stand_in
        for package in ("core", "_core")  # as numpy 1 and numpy 2 spell it
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _empty_array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _array_of_buffer),
        )
    },
}
