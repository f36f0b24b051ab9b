"""Where pairs are read from, whatever form they have there."""

import functools
from pathlib import Path

from distill.errors import InputError
from distill.faces.packs.index import PairIndex, index_pairs
from distill.faces.packs.listed import listed_pairs, rfw_listings, rfw_pairs
from distill.faces.packs.pickled import read_pack
from distill.faces.pairs import VerificationPairs
from distill.faces.settings import PairFacts
from distill.settings import LocalPath, Settings


class PairsSettings(Settings):
    """A verification benchmark on disk. What form it has is found out, never told."""

    path: LocalPath
    """A pack of InsightFace (`.bin`), a folder in RFW's layout, or the folder of what `pairs` lists."""
    pairs: LocalPath | None = None
    """A list of pairs of the images in `path`, in LFW's form or as CSV: see `distill.faces.packs.listed`."""

    def facts(self) -> PairFacts:
        """What is known before an image is decoded. Read once per process, until a file changes.

        Raises:
            InputError: If the pairs cannot be read, miss an image, are fewer than ten, or are of one kind.
        """
        return _facts(self.path, self.pairs, tuple(map(_stamp, self._decisive_files())))

    def load(self, *, name: str, size_px: int) -> VerificationPairs:
        """Reads and decodes all of it, be it of one kind only.

        Args:
            name: Prefix of the metrics measured on it.
            size_px: Side of the images, to which they are resized; the largest square in the middle is taken.

        Raises:
            InputError: If the pairs cannot be read, miss an image, or are fewer than ten; or if an image
                cannot be decoded.
        """
        return self._index().decoded(name=name, size_px=size_px)

    def _index(self) -> PairIndex:
        if self.pairs is not None:
            if not self.path.is_dir():
                raise InputError(f"{self.path} must be the folder of the images that {self.pairs} lists")
            return index_pairs(listed_pairs(self.pairs, self.path), what=str(self.pairs))
        pairs = rfw_pairs(self.path) if self.path.is_dir() else read_pack(self.path)
        return index_pairs(pairs, what=str(self.path))

    def _decisive_files(self) -> list[Path]:
        if self.pairs is not None:
            return [self.path, self.pairs]
        return list(rfw_listings(self.path).values()) if self.path.is_dir() else [self.path]


def _stamp(path: Path) -> tuple[Path, int, int]:
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    return path, state.st_mtime_ns, state.st_size


@functools.lru_cache(maxsize=64)
def _facts(path: Path, pairs: Path | None, stamps: tuple[tuple[Path, int, int], ...]) -> PairFacts:
    del stamps  # they only tell one state of the files from another
    return PairsSettings(path=path, pairs=pairs)._index().facts(what=str(pairs or path))
