"""What a file is by its first bytes, for the person who named another one."""

from pathlib import Path

from distill.errors import InputError

_MAGICS = {
    b"\x0a\x23\xd7\xce": "a RecordIO pack",
    b"PK\x03\x04": "a ZIP archive",
    b"\xff\xd8\xff": "a JPEG",
    b"\x89PNG": "a PNG",
    b"\x1f\x8b": "a gzip archive",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
}
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


def looks_like(path: Path) -> str:
    """What a file looks like, such as `a RecordIO pack`.

    Raises:
        InputError: If it cannot be read.
    """
    start = opening(path)
    for magic, kind in _MAGICS.items():
        if start.startswith(magic):
            return kind
    if not start:
        return "an empty file"
    if start[257:262] == b"ustar":
        return "a tar archive"
    if start.startswith(_PICKLES):
        return "a pickle"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return "a text file"
    return f"a file of no known kind that starts with 0x{start[:4].hex()}"
