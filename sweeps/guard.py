"""A process beside the driver that clears away the cluster of a driver that was killed.

Most of Ray's processes end when the driver does. Those that were only starting wait a minute and more for a
cluster that is gone, and its folder stays for ever: nothing runs any more that would remove either.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

GRACE_S = 5.0
PATIENCE_S = 60.0


@contextmanager
def guarded_folder() -> Iterator[Path]:
    """A folder for a cluster that this process starts, which outlives neither the block nor this process.

    Yields:
        What Ray is to have as `_temp_dir`. If this process is killed, whoever then writes there is ended.
    """
    # With a short path: Ray puts sockets there, whose paths may hold 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="sweeps-", dir="/tmp"))
    # In a session of its own Ctrl-C does not reach it, and -P keeps a folder named sweeps, wherever the user
    # may be, from standing in for this package.
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", "sweeps.guard", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        guard.kill()
        guard.communicate()


def clear(folder: Path) -> None:
    """Ends the processes that write in a folder and do not end by themselves in `GRACE_S`, and removes it."""
    deadline = time.monotonic() + PATIENCE_S
    time.sleep(GRACE_S)
    while (left := list(_users(folder))) and time.monotonic() < deadline:
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=1)
    shutil.rmtree(folder, ignore_errors=True)


def _users(folder: Path) -> Iterator[psutil.Process]:
    """The processes that write in a folder. Who only reads there may be a user who looks at a log."""
    for process in psutil.process_iter():
        try:
            written = [Path(file.path) for file in process.open_files() if getattr(file, "mode", "w") != "r"]
        except psutil.Error:  # ended meanwhile, or somebody else's
            continue
        if any(path.is_relative_to(folder) for path in written):
            yield process


if __name__ == "__main__":
    sys.stdin.read()  # ends when the driver does, however it does
    clear(Path(sys.argv[1]))
