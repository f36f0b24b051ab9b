"""What a killed process leaves of the cluster that it had started: nothing, and nobody else's is touched."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps import guard
from tests.end_to_end.machine import wait_for

# Takes a folder as a sweep does, says which, and goes on until it is killed.
DRIVER = """
import time
from sweeps.guard import guarded_folder
with guarded_folder() as folder:
    print(folder, flush=True)
    time.sleep(60)
"""
WRITER = "import sys, time; file = open(sys.argv[1], 'a'); print('open', flush=True); time.sleep(60)"
READER = "import sys, time; file = open(sys.argv[1]); print('open', flush=True); time.sleep(60)"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(
    started: list[subprocess.Popen[str]], code: str, *arguments: str
) -> tuple[subprocess.Popen[str], str]:
    """A process that runs `code`, and the first line that it says."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    started.append(process)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_who_writes_in_the_folder_of_a_killed_driver_is_ended_and_the_folder_removed(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    driver, line = start(started, DRIVER)
    folder = Path(line)
    log = folder / "logs" / "agent.log"
    log.parent.mkdir()
    log.touch()
    writer, _ = start(started, WRITER, str(log))
    reader, _ = start(started, READER, str(log))
    stranger, _ = start(started, WRITER, str(tmp_path / folder.name))
    driver.kill()
    began = time.monotonic()
    assert wait_for(lambda: not folder.exists(), timeout=30)
    assert time.monotonic() - began >= guard.GRACE_S, "nobody was given the time to end by themselves"
    assert writer.poll() is not None
    assert reader.poll() is None
    assert stranger.poll() is None


def test_the_folder_of_a_driver_that_ends_is_removed_and_its_guard_is_gone() -> None:
    with guard.guarded_folder() as folder:
        (folder / "session").mkdir()
        assert _guards(folder)
    assert not folder.exists()
    assert not _guards(folder)


def _guards(folder: Path) -> list[str]:
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if f"sweeps.guard {folder}" in line]
