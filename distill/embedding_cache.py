"""A teacher's embeddings of a finite set of faces, in a file that every trial on a machine maps.

A whole cache is the folder `KEY`: `embeddings.bin`, numbers in C order of shape (2, N, D), as the images are
and mirrored, and `card.json`, which tells whose they are and the checksum of each part. While it is being
built it is `KEY.partial`. Any number of processes build it together: each takes the next part whose file in
`parts` nobody holds locked, and leaves the part's checksum there. A lock falls with its process, so nobody
waits for the dead, and what they had finished stays.

N: images, D: width of the teacher's embedding, B: images of a part
"""

import fcntl
import hashlib
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from distill.errors import InputError
from distill.faces import LabelledFaces
from distill.faces.pixels import as_floats
from distill.faces.store import ImageStore
from distill.settings import Settings
from distill.teachers import Teacher

FORMAT = 1
PART_IMAGES = 4096
EMBED_BATCH = 256
POLL_S = 0.2
EMBEDDINGS, CARD, PARTS = "embeddings.bin", "card.json", "parts"
PARTIAL, DAMAGED = ".partial", ".damaged"
HEX_DIGITS = 64

CacheDtype = Literal["float32", "float16"]
EmbedImages: TypeAlias = Callable[[range], Tensor]
"""Embeds images of a set: float32, of shape (2, B, D), rows of NaN for those that cannot be read."""

_log = logging.getLogger(__name__)


class CacheIdentity(Settings):
    """Everything that decides the bytes of a cache, and so its key."""

    format: int = FORMAT
    """Of the files, and of how images reach a teacher."""
    faces: str
    """Digest of the set."""
    teacher: str
    """Digest of the teacher."""
    size_px: int
    """Side of the images, as the teacher is shown them."""
    num_images: int
    """N."""
    width: int
    """D."""
    dtype: CacheDtype
    """How an embedding's numbers are kept."""

    @property
    def key(self) -> str:
        """Names the cache's folder."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]


class CacheCard(CacheIdentity):
    """What a whole cache says of itself."""

    part_sha256: tuple[str, ...]
    """Of each part: the embeddings of `PART_IMAGES` images as they are, and then mirrored."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingCache:
    """Where a set's embeddings are kept, whether they are there yet or not.

    Attributes:
        directory: Holds this cache and others.
    """

    directory: Path
    identity: CacheIdentity

    @property
    def path(self) -> Path:
        """The cache, once it is whole."""
        return self.directory / self.identity.key

    @property
    def num_parts(self) -> int:
        """In how many parts it is built."""
        return -(-self.identity.num_images // PART_IMAGES)

    @property
    def num_bytes(self) -> int:
        """Size of the embeddings."""
        return int(np.prod(self._shape)) * self._dtype.itemsize

    def num_parts_done(self) -> int:
        """How many parts are there already."""
        return self.num_parts if self.path.exists() else sum(map(bool, self._marks()))

    def load(self, embed: EmbedImages) -> Tensor:
        """The embeddings, float, of shape (2, N, D), mapped from the file: never write to them.

        Builds what is missing, together with whoever else is at it. Checksums are verified once a process; a
        damaged cache is moved aside and built again.

        Raises:
            InputError: If the cache cannot be written or read, the embeddings do not fit its dtype, or
                `embed` raises it.
        """
        if self.path not in _opened:
            while (embeddings_2ND := self._open()) is None:
                self._build(embed)
            _opened[self.path] = embeddings_2ND
        return _opened[self.path]

    @property
    def _partial(self) -> Path:
        return self.path.with_suffix(PARTIAL)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return 2, self.identity.num_images, self.identity.width

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(self.identity.dtype)

    def _open(self) -> Tensor | None:
        """Maps the embeddings if they are whole; clears the way for new ones if they are damaged."""
        if not self.path.exists():
            return None
        with self._told_in_a_sentence():
            damage = self._damage()
        if damage is None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
                return torch.from_numpy(self._mapped(self.path))
        with self._alone():
            # Another process may have put a sound one here since.
            if self.path.exists() and (damage := self._damage()) is not None:
                aside = self.path.with_suffix(DAMAGED)
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(self.path, aside)
                _log.warning(
                    "%s is damaged (%s): it is built again, and kept as %s", self.path, damage, aside
                )
        return None

    def _damage(self) -> str | None:
        """What is wrong with a cache that claims to be whole."""
        try:
            card = CacheCard.model_validate_json((self.path / CARD).read_bytes())
            mapped_2ND = self._mapped(self.path)
        except (FileNotFoundError, ValidationError, ValueError) as error:
            return str(error).splitlines()[0]
        if card.model_dump(exclude={"part_sha256"}) != self.identity.model_dump():
            return f"{CARD} is of another cache"
        if len(card.part_sha256) != self.num_parts:
            return f"{CARD} lists {len(card.part_sha256)} of {self.num_parts} parts"
        wrong = [
            part
            for part, sha256 in enumerate(card.part_sha256)
            if _sha256(mapped_2ND[:, _slice(self._images(part))]) != sha256
        ]
        return f"the checksum of part {wrong[0]} is another" if wrong else None

    def _build(self, embed: EmbedImages) -> None:
        """Does all parts that nobody else does, and waits a moment where that is none."""
        self._prepare()
        num_done = sum(self._do(part, embed) for part in range(self.num_parts))
        if not self._finish() and num_done == 0:
            time.sleep(POLL_S)

    def _prepare(self) -> None:
        """Makes the folder of a build, and takes the space that it needs."""
        with self._alone():
            if self.path.exists():
                return
            try:
                (self._partial / PARTS).mkdir(parents=True, exist_ok=True)
                with (self._partial / EMBEDDINGS).open("ab") as file:
                    os.posix_fallocate(file.fileno(), 0, self.num_bytes)
            except OSError:
                shutil.rmtree(self._partial, ignore_errors=True)
                raise

    def _do(self, part: int, embed: EmbedImages) -> bool:
        """Embeds a part, unless it is done or somebody is at it."""
        try:
            mark = self._mark(part).open("a+")
        except FileNotFoundError:
            return False  # others have finished the whole
        with mark:
            if not _locked_now(mark) or _sealed(mark):
                return False
            images = self._images(part)
            embedding_2BD = self._kept_as(embed(images))
            with self._told_in_a_sentence():
                with (self._partial / EMBEDDINGS).open("r+b") as file:
                    for view, embedding_BD in enumerate(embedding_2BD):
                        file.seek((view * self.identity.num_images + images.start) * embedding_BD[0].nbytes)
                        file.write(embedding_BD.tobytes())
                    _to_disk(file)
                mark.truncate(0)
                mark.write(_sha256(embedding_2BD))
                _to_disk(mark)
            return True

    def _finish(self) -> bool:
        """Turns a build whose parts are all done into a cache; whether there is one now."""
        with self._alone():
            if self.path.exists():
                return True
            sha256 = self._marks()
            if not all(sha256):
                return False
            mapped_2ND = self._mapped(self._partial)
            for part, expected in enumerate(sha256):
                if _sha256(mapped_2ND[:, _slice(self._images(part))]) != expected:
                    _log.warning(
                        "part %d of %s is not what was written: it is done again", part, self._partial
                    )
                    self._mark(part).unlink()
                    return False
            card = CacheCard(**self.identity.model_dump(), part_sha256=tuple(sha256))
            with (self._partial / CARD).open("w") as file:
                file.write(card.model_dump_json(indent=2))
                _to_disk(file)
            os.replace(self._partial, self.path)
            _folder_to_disk(self.directory)
            shutil.rmtree(self.path / PARTS, ignore_errors=True)
            return True

    def _marks(self) -> list[str]:
        """The checksum of each part that is done; empty for the others."""
        return [_read_seal(self._mark(part)) for part in range(self.num_parts)]

    def _mark(self, part: int) -> Path:
        return self._partial / PARTS / f"{part:06d}"

    def _images(self, part: int) -> range:
        return range(part * PART_IMAGES, min((part + 1) * PART_IMAGES, self.identity.num_images))

    def _mapped(self, folder: Path) -> np.ndarray:
        if (size := (folder / EMBEDDINGS).stat().st_size) != self.num_bytes:
            raise ValueError(f"{EMBEDDINGS} has {size:,} bytes instead of {self.num_bytes:,}")
        return np.memmap(folder / EMBEDDINGS, dtype=self._dtype, mode="r", shape=self._shape)

    def _kept_as(self, embedding_2BD: Tensor) -> np.ndarray:
        kept_2BD = embedding_2BD.to(getattr(torch, self.identity.dtype)).numpy()
        if np.isinf(kept_2BD).any():
            largest = float(embedding_2BD.nan_to_num().abs().max())
            raise InputError(
                f"method.cache_dtype must be float32 for this teacher, whose embeddings reach {largest:.3g}, "
                f"got {self.identity.dtype}"
            )
        return kept_2BD

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other processes from beginning, finishing or discarding this cache."""
        with self._told_in_a_sentence():
            self.directory.mkdir(parents=True, exist_ok=True)
            with self.path.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield

    @contextmanager
    def _told_in_a_sentence(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"the embedding cache {self.directory} must be a folder with room for another "
                f"{self.num_bytes / 1e6:,.0f} MB: {error.strerror or error}"
            ) from error


def embed_images(images: range, *, faces: LabelledFaces, teacher: Teacher, device: torch.device) -> Tensor:
    """What the teacher says of images of a set and of their mirror images.

    Returns:
        Float32, of shape (2, B, D), on the CPU; rows of NaN for images that cannot be read.

    Raises:
        InputError: As `LabelledFaces.read`.
    """
    batches = []
    turns = torch.arange(images.start, images.stop).split(EMBED_BATCH)
    for index_B, next_B in zip(turns, [*turns[1:], None], strict=True):
        pixels, read_B = faces.read(index_B)
        if isinstance(faces.images, ImageStore) and next_B is not None:
            faces.images.expect(next_B)
        sharp = as_floats(pixels.to(device)).contiguous(memory_format=torch.channels_last)
        embedding_2BD = torch.stack([teacher(sharp), teacher(sharp.flip(-1))]).cpu()
        embedding_2BD[:, read_B != index_B] = torch.nan
        batches.append(embedding_2BD)
    return torch.cat(batches, dim=1)


_opened: dict[Path, Tensor] = {}


def _sha256(embedding_2BD: np.ndarray) -> str:
    content = hashlib.sha256()
    for embedding_BD in embedding_2BD:
        content.update(embedding_BD.ravel())
    return content.hexdigest()


def _slice(images: range) -> slice:
    return slice(images.start, images.stop)


def _locked_now(file: IO[str]) -> bool:
    """Locks a file until it is closed, unless somebody else holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sealed(mark: IO[str]) -> bool:
    mark.seek(0)
    return len(mark.read()) == HEX_DIGITS


def _read_seal(mark: Path) -> str:
    """The checksum in a part's file; empty while it is not there whole."""
    try:
        text = mark.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return text if len(text) == HEX_DIGITS else ""


def _to_disk(file: IO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _folder_to_disk(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
