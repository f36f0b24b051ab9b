"""How long a training may take, kept by the process itself: it says where it hangs, and ends.

The clock is faulthandler's, which runs outside of Python: it rings while a call holds the interpreter's lock,
or waits for a collective that never comes.
"""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIMEOUT = "timeout.txt"


@contextmanager
def time_limit(directory: Path, seconds: float | None, *, rank: int = 0) -> Iterator[None]:
    """Ends this process when what is inside takes longer, with its stack in a file that `read_timeout` finds.

    Args:
        directory: The trial's.
        seconds: None: there is no limit.
        rank: Of this process among those that train the student.
    """
    file = directory / (TIMEOUT if rank == 0 else f"{rank}-{TIMEOUT}")
    file.unlink(missing_ok=True)
    if seconds is None:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stack:
        faulthandler.dump_traceback_later(seconds, exit=True, file=stack)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            file.unlink(missing_ok=True)


def read_timeout(directory: Path) -> str | None:
    """Where the processes of the trial in `directory` were when its time was over; None if it was not."""
    files = sorted(directory.glob(f"*{TIMEOUT}"))
    stacks = [stack for file in files if (stack := file.read_text())]
    return "\n".join(stacks) or None
