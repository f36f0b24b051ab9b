"""Keeps what Ray, MLflow and C libraries print off the terminal while a display is on it."""

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from distill.errors import InputError, RefusedError


class CapturedOutput:
    """Where the output of this process goes while its file descriptors 1 and 2 are taken away.

    Attributes:
        out, err: The original standard output and error.
    """

    def __init__(self, out: TextIO, err: TextIO):
        self.out = out
        self.err = err
        self._aside = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `take_aside`, as soon as there is a log
        _redirect(self._aside.fileno())

    def log_to(self, path: Path) -> None:
        """Appends to this file from now on, beginning with what was kept aside until now."""
        _flush()
        with path.open("ab") as log:
            log.write(self.take_aside())
            log.flush()
            _redirect(log.fileno())

    def take_aside(self) -> bytes:
        """What was kept aside, which is then forgotten."""
        if self._aside.closed:
            return b""
        with self._aside:
            self._aside.seek(0)
            return self._aside.read()


@contextmanager
def captured_output(log_file: Path | None = None) -> Iterator[CapturedOutput]:
    """Takes file descriptors 1 and 2 away, and gives them back in the end, whatever happens.

    Args:
        log_file: Where output goes instead. None: it is kept aside until `log_to` names a file, and shown
            after all if an error ends this that nobody foresaw.
    """
    _flush()
    with _copy_of(1) as out, _copy_of(2) as err:
        captured = CapturedOutput(out, err)
        try:
            if log_file is not None:
                captured.log_to(log_file)
            yield captured
        except BaseException as error:
            kept = captured.take_aside() if _is_unforeseen(error) else b""
            err.write(kept.decode(errors="replace"))
            raise
        finally:
            _flush()
            for stream, number in ((out, 1), (err, 2)):
                stream.flush()
                os.dup2(stream.fileno(), number)
            captured.take_aside()


def _copy_of(number: int) -> TextIO:
    """A text stream of its own onto what a file descriptor points to now."""
    return os.fdopen(
        os.dup(number), "w", encoding=sys.stdout.encoding or "utf-8", errors="replace", buffering=1
    )


def _redirect(target: int) -> None:
    for number in (1, 2):
        os.dup2(target, number)


def _flush() -> None:
    """Sends what Python and C have buffered to where it was meant to go."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    ctypes.CDLL(None).fflush(None)


def _is_unforeseen(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, InputError | RefusedError)
