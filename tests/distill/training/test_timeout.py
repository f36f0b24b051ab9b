"""A training that hangs past its time ends itself and says where it was; one in time leaves nothing."""

import ctypes
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.training import read_timeout
from distill.training.timeout import TIMEOUT, time_limit


def sleeping() -> None:
    time.sleep(60)


def holding_the_lock() -> None:
    ctypes.PyDLL(None).sleep(60)


def train_that_never_ends(directory: Path, rank: int, hang: Callable[[], None]) -> None:
    with time_limit(directory, 0.5, rank=rank):
        hang()


def hung(directory: Path, *ranks: int, hang: Callable[[], None] = sleeping) -> list[int | None]:
    """Exit codes of processes that hang."""
    forked = multiprocessing.get_context("fork")
    workers = [forked.Process(target=train_that_never_ends, args=(directory, rank, hang)) for rank in ranks]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
    return [worker.exitcode for worker in workers]


@pytest.mark.parametrize("hang", [sleeping, holding_the_lock])
def test_a_process_that_hangs_ends_and_leaves_its_stack(tmp_path: Path, hang: Callable[[], None]) -> None:
    assert hung(tmp_path / "trial", 0, hang=hang) == [1]
    stack = read_timeout(tmp_path / "trial")
    assert stack is not None
    assert stack.startswith("Timeout (0:00:00.500000)!")
    assert f"in {hang.__name__}" in stack
    assert "in train_that_never_ends" in stack


def test_every_worker_says_where_it_was(tmp_path: Path) -> None:
    assert hung(tmp_path, 0, 1) == [1, 1]
    stack = read_timeout(tmp_path)
    assert stack is not None
    assert stack.count("in train_that_never_ends") == 2


def test_a_training_that_ends_in_time_leaves_no_file_and_no_clock(tmp_path: Path) -> None:
    (tmp_path / TIMEOUT).write_text("of an attempt before")
    with time_limit(tmp_path, 0.3):
        assert (tmp_path / TIMEOUT).exists()
        assert read_timeout(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    time.sleep(0.5)  # this process lives on


def test_a_training_that_raises_in_time_leaves_no_clock_either(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), time_limit(tmp_path, 0.3):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    time.sleep(0.5)


def test_what_an_earlier_attempt_left_is_removed_where_there_is_no_limit(tmp_path: Path) -> None:
    (tmp_path / TIMEOUT).write_text("of an attempt before")
    with time_limit(tmp_path, None):
        assert read_timeout(tmp_path) is None
