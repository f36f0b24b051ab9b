"""What a file is by its first bytes, for the person who named another one than he meant."""

from pathlib import Path

from distill.errors import InputError

_MAGICS = {
    b"\x0a\x23\xd7\xce": "a RecordIO pack",
    b"pk\x03\x04": "a ZIP archive",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89png": "a PNG image",
    b"\x1f\x8b": "a gzip archive, which must be unpacked",
    b"bzh": "a bzip2 archive, which must be unpacked",
    b"\x93numpy": "a NumPy array",
    b"\x89hdf": "an HDF5 file",
    b"\x12\x01\x00\x00\x00\x00\x00\x00": "the parameters of an MXNet network",
    b"version https://git-lfs": "a Git LFS pointer: `git lfs pull` fetches the file itself",
    b"<!doctype html": "an HTML page: the download went wrong",
    b"<html": "an HTML page: the download went wrong",
}
"""First bytes, in lower case."""
_PICKLES = (b"\x80", b"(", b"]")  # a tuple or a list in the binary protocols, the textual and the first one


def opening(path: Path) -> bytes:
    """The first 512 bytes.

    Raises:
        InputError: If there is no such file, or it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


def known_kind(opening: bytes) -> str | None:
    """What a file looks like that begins so, such as `a RecordIO pack`; None where that could be anything."""
    starts = (opening.lower(), opening.lower().lstrip())  # a page may begin with blank lines
    for magic, kind in _MAGICS.items():
        if any(start.startswith(magic) for start in starts):
            return kind
    if not opening:
        return "an empty file"
    return "a tar archive" if opening[257:262] == b"ustar" else None


def looks_like(path: Path) -> str:
    """What a file looks like, as well as it can be told.

    Raises:
        InputError: If it cannot be read.
    """
    start = opening(path)
    if kind := known_kind(start):
        return kind
    if start.startswith(_PICKLES):
        return "a pickle"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return "a text file"
    return f"a file of no known kind that starts with 0x{start[:4].hex()}"
