"""Images that are files of their own, under one folder.

N: images
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor

from distill.faces.stored.decoding import EncodedStore, UnreadableImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MAX_FILE_BYTES = 2**28
NAMES_PER_HASH = 2**16
GONE = -1


class FileStore(EncodedStore):
    """Image files.

    Its digest is of paths, sizes and labels: a file that was exchanged for another of the same size is not
    seen. Finding the sizes takes a look at every file.

    Args:
        source: The folder or manifest, for messages.
        root: What the paths are relative to.
        path_N: Path of each image as bytes, as the file system spells it.
        label_N: Who is on each image, for the digest.
        size_px, max_corrupt_share: As `EncodedStore`.
    """

    def __init__(
        self,
        *,
        source: Path,
        root: Path,
        path_N: pa.LargeBinaryArray,
        label_N: Tensor,
        size_px: int,
        max_corrupt_share: float,
    ):
        super().__init__(
            source=str(source),
            num_images=len(path_N),
            size_px=size_px,
            max_corrupt_share=max_corrupt_share,
        )
        self._root, self._path_N = os.fsencode(root), path_N
        content = hashlib.sha256(f"files/{size_px}".encode())
        for start in range(0, len(path_N), NAMES_PER_HASH):
            paths = path_N.slice(start, NAMES_PER_HASH).to_pylist()
            content.update(b"\0".join(paths))
            content.update(np.array([self._size_of(path) for path in paths], dtype="<i8").tobytes())
        content.update(label_N.numpy().astype("<i8").tobytes())
        self.digest = content.hexdigest()

    def encoded(self, index: int) -> bytes:
        with open(os.path.join(self._root, self._path_N[index].as_py()), "rb") as file:
            encoded = file.read(MAX_FILE_BYTES + 1)
        if len(encoded) > MAX_FILE_BYTES:
            raise UnreadableImageError(f"it has more than {MAX_FILE_BYTES:,} bytes")
        return encoded

    def name_of(self, index: int) -> str:
        return os.fsdecode(self._path_N[index].as_py())

    def _size_of(self, path: bytes) -> int:
        try:
            return os.stat(os.path.join(self._root, path)).st_size
        except OSError:
            return GONE
