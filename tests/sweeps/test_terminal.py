"""The display has the terminal to itself, says everything where there is none, and gives it back."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from distill.errors import InputError
from sweeps.capture import captured_output
from sweeps.leaderboard import TrialRow
from sweeps.space import SearchSpace, load_space
from sweeps.terminal import SweepDisplay, sweep_display

METRIC = "validation/verification_accuracy"


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("quickstart")


def play(display: SweepDisplay, space: SearchSpace, *, num_trials: int = 2) -> None:
    """Tells of a sweep from its start to its end."""
    display.started(
        name="quickstart",
        num_trials=num_trials,
        concurrent=2,
        tracking_uri="sqlite:///m.db",
        home="/runs",
    )
    for number in range(num_trials):
        display.trial_started(number, space.first_point())
        display.trial_epoch(number, 1, 8, 0.75)
        display.trial_finished(number, "complete", 0.75, 61.0)
    rows = [
        TrialRow(number=n, state="complete", values=[0.75], metrics={METRIC: 0.75}) for n in range(num_trials)
    ]
    display.finished(rows, teacher={METRIC: 0.97}, sentences=["It is registered as face-student@champion."])


def print_and_raise(error: BaseException, log: Path | None) -> None:
    with captured_output(log):
        os.write(1, b"chatter\n")
        raise error


def test_output_of_c_libraries_and_of_children_goes_to_the_log(tmp_path: Path, capfd) -> None:
    with captured_output(tmp_path / "log") as captured:
        os.write(1, b"from C\n")
        os.write(2, b"error from C\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        captured.out.write("to the terminal\n")
        captured.err.write("an error to the terminal\n")
    os.write(1, b"after\n")
    assert (tmp_path / "log").read_text() == "from C\nerror from C\nfrom a child\n"
    assert capfd.readouterr() == ("to the terminal\nafter\n", "an error to the terminal\n")


def test_output_comes_back_after_an_error(tmp_path: Path, capfd) -> None:
    with pytest.raises(RuntimeError):
        print_and_raise(RuntimeError(), tmp_path / "log")
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"


def test_what_came_before_the_log_had_a_place_is_kept(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("an earlier run\n")
    with captured_output() as captured:
        os.write(1, b"early\n")
        captured.log_to(tmp_path / "log")
        os.write(1, b"late\n")
    assert (tmp_path / "log").read_text() == "an earlier run\nearly\nlate\n"


@pytest.mark.parametrize(
    ("error", "shown"), [(RuntimeError(), "chatter\n"), (InputError(), ""), (KeyboardInterrupt(), "")]
)
def test_what_was_kept_aside_is_shown_if_nobody_foresaw_the_end(
    error: BaseException, shown: str, capfd
) -> None:
    with pytest.raises(type(error)):
        print_and_raise(error, None)
    assert capfd.readouterr().err == shown


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux to count descriptors")
def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with captured_output() as captured:
        captured.log_to(tmp_path / "log")
    assert os.listdir("/proc/self/fd") == before


def test_without_a_terminal_every_event_is_one_line(space: SearchSpace, capfd) -> None:
    with sweep_display(space) as display:
        play(display, space)
    lines = capfd.readouterr().out.splitlines()
    assert lines[:6] == [
        "study      quickstart",
        "objective  validation/verification_accuracy (maximize)",
        "trials     2, 2 at once",
        "tracking   sqlite:///m.db",
        "stored in  /runs",
        "resume     sweeps resume quickstart --home /runs",
    ]
    assert lines[7:10] == [
        "trial 0 started: student=bridge_tiny lr=0.002 resampling_coef=0.25 raw_mse=0.1 cosine=0.1",
        "trial 0 epoch 1/8: 0.7500",
        "trial 0 complete at 0.7500 after 1m01s: 1/2 done, best 0.7500 in trial 0",
    ]
    assert lines[-1] == "It is registered as face-student@champion."


def test_with_json_only_the_document_is_printed(space: SearchSpace, capfd) -> None:
    with sweep_display(space, as_json=True) as display:
        play(display, space)
        display.print(json.dumps({"study": "quickstart"}))
    out, err = capfd.readouterr()
    assert json.loads(out) == {"study": "quickstart"}
    assert err == ""


def test_a_long_leaderboard_is_cut_and_says_where_the_rest_is(space: SearchSpace, capfd) -> None:
    with sweep_display(space) as display:
        play(display, space, num_trials=13)
    assert "\nand 3 more: sweeps leaderboard quickstart --home /runs\n" in capfd.readouterr().out


def test_a_cache_in_the_making_is_told_each_tenth_of_the_way(space: SearchSpace, capfd) -> None:
    with sweep_display(space) as display:
        for num_done in range(41):
            display.caching(num_done, 40, images_per_second=1234.5)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "caching the teacher's embeddings: 0/40 parts, 1,234 images a second"
    assert [line.split()[4] for line in lines] == [f"{num_done}/40" for num_done in range(0, 41, 4)]


class Terminal:
    """A terminal of 80 x 24 that keeps everything that was written on it."""

    def __init__(self) -> None:
        self._shows, writes = pty.openpty()
        fcntl.ioctl(writes, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.stream = os.fdopen(writes, "w", encoding="utf-8")
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def close(self) -> str:
        """Switches it off; returns what was written."""
        self.stream.close()
        self._reader.join()
        os.close(self._shows)
        return self._written.decode()

    def _read(self) -> None:
        with suppress(OSError):  # what Linux says when the other end is closed
            while written := os.read(self._shows, 4096):
                self._written += written


def test_on_a_terminal_the_picture_is_drawn_and_then_replaced_by_the_leaderboard(space: SearchSpace) -> None:
    terminal = Terminal()
    with captured_output() as captured:
        console = Console(file=terminal.stream, force_terminal=True, color_system=None)
        display = SweepDisplay(space, captured, console, mode="live", clock=lambda: 0.0)
        play(display, space)
    picture, _, leaderboard = terminal.close().partition("Best first by")
    assert "quickstart   2/2 trials   best 0.7500 in trial 0   0s so far" in picture
    assert "━━━━━━━━" not in picture
    assert "━───────" in picture
    assert "teacher" in leaderboard
    assert "0/2 trials" not in leaderboard


def test_a_terminal_gets_its_cursor_back_after_an_error(space: SearchSpace) -> None:
    terminal = Terminal()
    with captured_output() as captured:
        console = Console(file=terminal.stream, force_terminal=True, color_system=None)
        display = SweepDisplay(space, captured, console, mode="live")
        display.started(name="s", num_trials=2, concurrent=1, tracking_uri="", home="/runs")
        display.close()
    hide, show = "\x1b[?25l", "\x1b[?25h"
    written = terminal.close()
    assert written.rindex(show) > written.rindex(hide)


def test_a_terminal_shows_a_cache_in_the_making_above_the_picture_while_it_is_made(
    space: SearchSpace,
) -> None:
    terminal = Terminal()
    with captured_output() as captured:
        console = Console(file=terminal.stream, force_terminal=True, color_system=None)
        display = SweepDisplay(space, captured, console, mode="live", clock=lambda: 0.0)
        drawn = []
        display.caching(3, 7, images_per_second=500.0)
        for _ in range(2):
            with console.capture() as capture:
                console.print(display._picture())
            drawn.append(capture.get().splitlines())
            display.caching_ended()
    terminal.close()
    assert drawn[0][0] == "caching the teacher's embeddings: 3/7 parts, 500 images a second"
    assert drawn[0][1:] == drawn[1]
