"""Pickles of strangers, read without executing anything of them.

A pickle names functions and classes by module and name, and calls them. Here it gets those of a short list
only; everything else is refused, and named. What is on the list must be harmless whatever it is called with:
put a function of your own there that checks its arguments, rather than the one that the pickle means.
"""

import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar

from distill.errors import InputError

Allowed = Mapping[tuple[str, str], Any]
"""What stands in for a global, by module and name as the pickle spells them. Functions go in a `StandIn`."""


class ForbiddenGlobalError(InputError):
    """A pickle asks for a function or a class that is not on the list."""


class StandIn:
    """A function that a pickle may call, and do nothing else with: it could set attributes of a bare one."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it sets attributes of a function")


def load_pickle(
    stream: BinaryIO,
    *,
    allowed: Allowed,
    what: str,
    encoding: str = "ASCII",
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads one pickle.

    Args:
        what: What the stream is, for messages: a file's path.
        encoding: How text of Python 2 is read; `bytes` leaves it as it is.
        persistent_load: Finds what the pickle keeps outside of itself. None: it must keep nothing there.

    Raises:
        ForbiddenGlobalError: If the pickle asks for anything that is not allowed. Nothing of it was called.
        InputError: If it is no pickle, is cut short, or uses what is allowed in a way that is not.
    """
    reader = _AllowListUnpickler(stream, encoding=encoding)
    reader.allowed, reader.what, reader.find_persistent = allowed, what, persistent_load
    try:
        return reader.load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(f"{what} is cut short or no readable pickle ({_reason(error)})") from error


# The reader that is written in Python: that in C makes room for as much as a few bytes announce.
_Reader: Any = pickle._Unpickler


class _AllowListUnpickler(_Reader):
    """Gives a pickle what is allowed, and no room that it does not fill."""

    allowed: Allowed
    what: str
    find_persistent: Callable[[Any], Any] | None

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise ForbiddenGlobalError(
                f"{self.what} is refused: it asks for {module}.{name}, which a pickle could execute"
            )
        return self.allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self.find_persistent is None:
            raise InputError(f"{self.what} is refused: it refers to something outside of itself ({pid!r})")
        return self.find_persistent(pid)

    def load_bytearray8(self) -> None:
        """Reads the bytes that there are, instead of making room for those announced."""
        (size,) = struct.unpack("<Q", self.read(8))
        if len(content := self.read(size)) < size:
            raise EOFError("it ends within an array of bytes")
        self.append(bytearray(content))

    dispatch: ClassVar = {**_Reader.dispatch, pickle.BYTEARRAY8[0]: load_bytearray8}


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
