"""InsightFace's packs: a `.rec` file of records and the `.idx` file that tells where each begins.

The container is RecordIO of dmlc-core, https://github.com/dmlc/dmlc-core, and the payload an image record of
MXNet, https://github.com/apache/mxnet (python/mxnet/recordio.py). Both are little-endian:

    record   magic, length (29 bits) with the part's number above it, data, zeros up to a multiple of 4 bytes
    payload  flag, label, id, id2; `flag` labels, which then replace the one label; the image's file

Two dialects are read. InsightFace's datasets begin with a header, the record of key 0: images have the keys
[1, L0), identities those of [L0, L1), and an identity's two labels are the range of its images' keys. Other
packs (im2rec, shuffled ones) have no header, and each image's first label is its class.

N: images, K: records, C: identities
"""

import hashlib
import mmap
import os
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pyarrow import csv

from distill.errors import InputError
from distill.faces.stored.decoding import (
    NONE_CORRUPT,
    NUM_NAMED,
    CorruptImages,
    EncodedStore,
    UnreadableImageError,
)
from distill.faces.stored.identified import Identified

MAGIC = 0xCED7230A
WHOLE, FIRST, MIDDLE, LAST = range(4)
HEAD_BYTES = 8
LABEL_BYTES = 4
FIXED_BYTES = 24  # of a payload, before its labels
LENGTH_BITS = 29
HEAD_WORDS = 10  # of a record, up to its second label
RECORDS_PER_LOOK = 2**13
MAX_KEY = 2**24
"""Labels are float32, which cannot tell keys from here on apart."""


class _Heads(NamedTuple):
    """What the beginnings of K records say.

    Attributes:
        is_damaged_K: Whether there is no record there, or it ends too early.
        is_empty_K: Whether labels are all that it holds.
        num_labels_K: Labels in its payload; 0 where the one before them counts.
        label_K2: Its first two labels, float32; the second is meaningless where there is one.
    """

    is_damaged_K: np.ndarray
    is_empty_K: np.ndarray
    num_labels_K: np.ndarray
    label_K2: np.ndarray


class RecordFile:
    """A `.rec` file, opened again where it arrives after pickling.

    Records are read, not mapped: pages of a mapping would stay, and with each a few of its neighbours. Only
    who looks at the beginnings of all maps the file.

    Raises:
        InputError: If it is missing, empty, cut short, or does not begin with a record.
    """

    def __init__(self, path: Path):
        self.path = path
        self._open()
        self.num_bytes = len(self._bytes)
        if self.num_bytes % 4:
            raise InputError(f"{path} is cut short: {self.num_bytes:,} bytes are not a multiple of 4")
        if int.from_bytes(self._read(0, 4), "little") != MAGIC:
            raise InputError(f"{path} is no pack of records: it does not begin with 0x{MAGIC:08X}")

    def _open(self) -> None:
        try:
            with self.path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._descriptor = os.dup(file.fileno())
        except ValueError as error:
            raise InputError(f"{self.path} is empty") from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror})") from error
        weakref.finalize(self, os.close, self._descriptor)

    def _read(self, offset: int, num_bytes: int) -> bytes:
        return os.pread(self._descriptor, num_bytes, offset)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "num_bytes": self.num_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()
        if len(self._bytes) != self.num_bytes:
            raise InputError(
                f"{self.path} has changed: it had {self.num_bytes:,} bytes, and now has {len(self._bytes):,}"
            )

    def payload(self, offset: int) -> bytes:
        """What a record holds, its parts put together: the writer cut it wherever it held the magic number.

        Raises:
            UnreadableImageError: If there is no whole record.
        """
        data: list[bytes] = []
        part = FIRST
        while part not in (WHOLE, LAST):
            part, length = self._part(offset)
            if part not in ((MIDDLE, LAST) if data else (WHOLE, FIRST)):
                raise UnreadableImageError("the parts of its record are out of order")
            start = offset + HEAD_BYTES
            data.append(self._read(start, length))
            offset = start + length + -length % 4
        return MAGIC.to_bytes(4, "little").join(data)

    def image(self, offset: int) -> bytes:
        """The image's file in a record.

        Raises:
            UnreadableImageError: If there is no whole record, or no image in it.
        """
        payload = self.payload(offset)
        num_labels = int.from_bytes(payload[:4], "little")
        image = payload[FIXED_BYTES + LABEL_BYTES * num_labels :]
        if not image:
            raise UnreadableImageError("its record holds no image")
        return image

    def heads(self, offset_K: np.ndarray) -> _Heads:
        """Reads the beginnings of records only, fastest in the order of the file.

        Args:
            offset_K: Where they begin, multiples of 4, each at least 8 bytes before the end of the file.
        """
        looks = [
            self._look(offset_K[start : start + RECORDS_PER_LOOK])
            for start in range(0, len(offset_K), RECORDS_PER_LOOK)
        ]
        return _Heads(*(np.concatenate(column) for column in zip(*looks, strict=True)))

    def _look(self, offset_K: np.ndarray) -> _Heads:
        words = np.frombuffer(self._bytes, dtype="<u4")
        # What lies behind a record's end is read, and then ignored.
        place_KW = np.minimum(offset_K[:, None] // 4 + np.arange(HEAD_WORDS), len(words) - 1)
        head_KW = words[place_KW]
        # Pages that were looked at are given back: a pack may be larger than the memory.
        self._bytes.madvise(mmap.MADV_DONTNEED)
        part_K, length_K = head_KW[:, 1] >> LENGTH_BITS, head_KW[:, 1] & ((1 << LENGTH_BITS) - 1)
        num_labels_K = head_KW[:, 2].astype(np.int64)
        label_K2 = np.where(num_labels_K[:, None] > 0, head_KW[:, 8:10], head_KW[:, 3:4]).view("<f4")
        fits_K = offset_K + HEAD_BYTES + length_K <= self.num_bytes
        needed_K = FIXED_BYTES + LABEL_BYTES * num_labels_K
        is_damaged_K = (head_KW[:, 0] != MAGIC) | (part_K > FIRST) | ~fits_K | (length_K < needed_K)
        is_empty_K = ~is_damaged_K & (part_K == WHOLE) & (num_labels_K > 0) & (length_K == needed_K)
        for k in ((head_KW[:, 0] == MAGIC) & (part_K == FIRST)).nonzero()[0]:
            is_damaged_K[k], num_labels_K[k], label_K2[k] = self._head_of_parts(int(offset_K[k]))
        return _Heads(is_damaged_K, is_empty_K, num_labels_K, label_K2)

    def _head_of_parts(self, offset: int) -> tuple[bool, int, tuple[float, float]]:
        """Whether a record in parts is damaged, its number of labels, and the first two of them.

        It may have been cut within its head; such records are rare, so that they may be read whole.
        """
        try:
            payload = self.payload(offset)
        except UnreadableImageError:
            return True, 0, (0, 0)
        num_labels = int.from_bytes(payload[:4], "little")
        at = FIXED_BYTES if num_labels else LABEL_BYTES
        if len(payload) < FIXED_BYTES + LABEL_BYTES * num_labels:
            return True, 0, (0, 0)
        first, second = np.frombuffer(payload + bytes(2 * LABEL_BYTES), dtype="<f4", count=2, offset=at)
        return False, num_labels, (first, second)

    def _part(self, offset: int) -> tuple[int, int]:
        """Number and length of the part that begins here."""
        head = self._read(offset, HEAD_BYTES)
        if len(head) < HEAD_BYTES or int.from_bytes(head[:4], "little") != MAGIC:
            raise UnreadableImageError(f"no record begins at byte {offset:,}")
        word = int.from_bytes(head[4:], "little")
        part, length = word >> LENGTH_BITS, word & ((1 << LENGTH_BITS) - 1)
        if part > LAST or offset + HEAD_BYTES + length > self.num_bytes:
            raise UnreadableImageError("its record is cut short")
        return part, length


class RecordStore(EncodedStore):
    """The images of a pack.

    Its digest is of the images' keys and offsets, of who is on them, and of the file's size: images of the
    same length that were exchanged are not seen.

    Args:
        file: The pack.
        key_N, offset_N: The images' keys, and where their records begin, int64.
        label_N: Who is on each image, for the digest.
        size_px, max_corrupt_share, lost: As `EncodedStore`.
    """

    def __init__(
        self,
        file: RecordFile,
        *,
        key_N: np.ndarray,
        offset_N: np.ndarray,
        label_N: np.ndarray,
        size_px: int,
        max_corrupt_share: float,
        lost: CorruptImages = NONE_CORRUPT,
    ):
        super().__init__(
            source=str(file.path),
            num_images=len(key_N),
            size_px=size_px,
            max_corrupt_share=max_corrupt_share,
            lost=lost,
        )
        self._file, self._key_N, self._offset_N = file, key_N, offset_N
        content = hashlib.sha256(f"records/{size_px}/{file.num_bytes}".encode())
        for array in (key_N, offset_N, label_N):
            content.update(array.astype("<i8").tobytes())
        self.digest = content.hexdigest()

    def encoded(self, index: int) -> bytes:
        return self._file.image(int(self._offset_N[index]))

    def name_of(self, index: int) -> str:
        return _name(self._key_N[index])


def open_records(path: Path, *, size_px: int, max_corrupt_share: float) -> Identified:
    """Opens a pack, whose index lies beside it, and finds out who is on its images.

    With a header, no image is touched, and an identity is named by its number in the pack. Without, the
    beginning of every record is read, and an identity is named by its label; records that cannot tell theirs
    are lost.

    Args:
        path: The `.rec` file.
        size_px, max_corrupt_share: As `EncodedStore`.

    Raises:
        InputError: If a file is missing or damaged, or they contradict each other.
    """
    file = RecordFile(path)
    key_K, offset_K = _read_index(path.with_suffix(".idx"), num_bytes=file.num_bytes)
    head = file.heads(offset_K[:1])
    if key_K[0] == 0 and head.is_empty_K[0] and head.num_labels_K[0] == 2:
        found = _by_ranges(file, key_K, offset_K, ends_2=head.label_K2[0])
    else:
        found = _by_labels(file, key_K, offset_K)
    if not len(found.key_N):
        raise InputError(f"{path} holds no image whose identity is known")
    _check_property(path.with_name("property"), last_number=found.last_number)
    number_C, label_N = np.unique(found.number_N, return_inverse=True)
    store = RecordStore(
        file,
        key_N=found.key_N,
        offset_N=found.offset_N,
        label_N=label_N,
        size_px=size_px,
        max_corrupt_share=max_corrupt_share,
        lost=found.lost,
    )
    return Identified(
        images=store, label_N=torch.from_numpy(label_N), identities=tuple(map(str, number_C.tolist()))
    )


class _Found(NamedTuple):
    """The images of a pack, ordered by identity and key, and the number that the pack gives each identity.

    `last_number` is the largest, whether there are images of it or not.
    """

    key_N: np.ndarray
    offset_N: np.ndarray
    number_N: np.ndarray
    last_number: int
    lost: CorruptImages = NONE_CORRUPT


def _by_ranges(file: RecordFile, key_K: np.ndarray, offset_K: np.ndarray, *, ends_2: np.ndarray) -> _Found:
    """Identity records tell which keys each identity's images have."""
    first_identity, end_identity = _whole_numbers(ends_2)
    if not 1 <= first_identity <= end_identity < MAX_KEY:
        raise InputError(
            f"{file.path} has a header that names the keys {ends_2[0]:g} to {ends_2[1]:g} as identities, "
            f"which must be whole numbers in [1, {MAX_KEY:,})"
        )
    is_identity_K = (first_identity <= key_K) & (key_K < end_identity)
    if (num_identities := is_identity_K.sum()) != end_identity - first_identity:
        raise InputError(
            f"{file.path} has {end_identity - first_identity:,} identities by its header, but its index "
            f"knows {num_identities:,}"
        )
    heads = file.heads(offset_K[is_identity_K])
    first_C, end_C = _whole_numbers(heads.label_K2).T
    is_range_C = heads.is_empty_K & (heads.num_labels_K == 2)
    is_range_C &= (first_C >= 1) & (first_C <= end_C) & (end_C <= first_identity)
    for key in key_K[is_identity_K][~is_range_C][:1]:
        raise InputError(
            f"{file.path} is damaged: the record of key {key} must name the images of an identity, as a "
            f"range of keys in [1, {first_identity})"
        )
    size_C = end_C - first_C
    used = (size_C > 0).nonzero()[0]
    used = used[first_C[used].argsort()]
    if (end_C[used][:-1] > first_C[used][1:]).any():
        raise InputError(f"{file.path} is damaged: its identities share images")
    start_C = size_C.cumsum() - size_C
    key_N = np.repeat(first_C - start_C, size_C) + np.arange(size_C.sum())
    place_N = np.minimum(np.searchsorted(key_K, key_N), len(key_K) - 1)
    for key in key_N[key_K[place_N] != key_N][:1]:
        raise InputError(f"{file.path} has an image of key {key}, which its index does not know")
    return _Found(
        key_N=key_N,
        offset_N=offset_K[place_N],
        number_N=np.repeat(np.arange(len(size_C)), size_C),
        last_number=len(size_C) - 1,
    )


def _by_labels(file: RecordFile, key_K: np.ndarray, offset_K: np.ndarray) -> _Found:
    """Every record tells who is on its image; one of labels alone is no image."""
    by_place = offset_K.argsort()
    key_K, offset_K = key_K[by_place], offset_K[by_place]
    heads = file.heads(offset_K)
    number_K = _whole_numbers(heads.label_K2[:, 0])
    is_lost_K = heads.is_damaged_K | (number_K < 0) & ~heads.is_empty_K
    is_image_K = ~is_lost_K & ~heads.is_empty_K
    key_N, offset_N, number_N = key_K[is_image_K], offset_K[is_image_K], number_K[is_image_K]
    order = np.lexsort((key_N, number_N))
    num_lost = int(is_lost_K.sum())
    return _Found(
        key_N=key_N[order],
        offset_N=offset_N[order],
        number_N=number_N[order],
        last_number=int(number_N.max(initial=-1)),
        lost=CorruptImages(
            count=num_lost,
            num_read=num_lost,
            names=tuple(
                f"{_name(key)} (it does not tell its identity)" for key in key_K[is_lost_K][:NUM_NAMED]
            ),
        ),
    )


def _name(key: int) -> str:
    return f"the record of key {key}"


def _whole_numbers(values: np.ndarray) -> np.ndarray:
    """Float32 as int64; what is no whole number that a key or a class may have becomes -1."""
    with np.errstate(invalid="ignore"):
        is_whole = (values >= 0) & (values < MAX_KEY) & (values == np.floor(values))
    return np.where(is_whole, values, -1).astype(np.int64)


def _read_index(path: Path, *, num_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys, ascending, and where their records begin."""
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=["key", "offset"]),
            parse_options=csv.ParseOptions(delimiter="\t"),
            convert_options=csv.ConvertOptions(column_types={"key": pa.int64(), "offset": pa.int64()}),
        )
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: a pack cannot be read without its index") from error
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} must hold lines of a key, a tab and an offset ({reason})") from error
    if table["key"].null_count or table["offset"].null_count:
        raise InputError(f"{path} must hold lines of a key, a tab and an offset, got lines without one")
    key_K, offset_K = table["key"].to_numpy(), table["offset"].to_numpy()
    by_key = key_K.argsort()
    key_K, offset_K = key_K[by_key], offset_K[by_key]
    for key in key_K[1:][key_K[1:] == key_K[:-1]][:1]:
        raise InputError(f"{path} must tell one offset of each key, got several of key {key}")
    is_outside_K = (offset_K < 0) | (offset_K > num_bytes - HEAD_BYTES) | (offset_K % 4 != 0)
    for key, offset in zip(key_K[is_outside_K][:1], offset_K[is_outside_K][:1], strict=True):
        raise InputError(
            f"{path} must tell offsets that are multiples of 4 within the {num_bytes:,} bytes of the pack, "
            f"got {offset:,} of key {key}: one of the two files is cut short or of another pack"
        )
    return key_K, offset_K


def _check_property(path: Path, *, last_number: int) -> None:
    """Compares the pack with the file beside it that tells its classes and its images' height and width."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text") from error
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
        raise InputError(f"{path} must hold num_classes,height,width, got {text[:40]!r}")
    if last_number >= int(numbers[0]):
        raise InputError(
            f"{path} tells of {int(numbers[0]):,} classes, but the pack has a class {last_number}"
        )
