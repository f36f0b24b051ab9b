"""What a person sees while a sweep runs."""

import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.live import Live

from sweeps.capture import CapturedOutput, captured_output
from sweeps.columns import duration, metric_text, setting_text, short_names
from sweeps.leaderboard import State, TrialRow, as_table
from sweeps.progress import SweepProgress
from sweeps.space import SearchSpace

TOP = 10
PLAIN_WIDTH = 120
REFRESHES_PER_SECOND = 4

Mode = Literal["live", "plain", "silent"]
"""live: a picture that is redrawn. plain: a line an event, for pipes and files. silent: `print` alone."""


@contextmanager
def sweep_display(space: SearchSpace, *, as_json: bool = False) -> Iterator["SweepDisplay"]:
    """Gives a display the terminal to itself, and the terminal back in the end, whatever happens.

    Args:
        as_json: Leaves standard output to one JSON document, which the caller prints.
    """
    with captured_output() as captured:
        console = Console(file=captured.out)
        moves = console.is_terminal and not console.is_dumb_terminal
        mode: Mode = "silent" if as_json else "live" if moves else "plain"
        display = SweepDisplay(space, captured, console, mode=mode)
        try:
            yield display
        finally:
            display.close()


class SweepDisplay:
    """Shows the events of a sweep. They come from one thread; the picture is drawn by another."""

    def __init__(
        self,
        space: SearchSpace,
        captured: CapturedOutput,
        console: Console,
        *,
        mode: Mode,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._space = space
        self._captured = captured
        self._console = console
        self._mode: Mode = mode
        self._clock = clock
        self._short = short_names(list(space.parameters))
        console.size = _terminal_size(console)
        self._symbols = console.encoding.lower().startswith("utf")
        self._lock = threading.Lock()
        self._home = Path()
        self._caching, self._tenths = "", -1
        self._progress = SweepProgress(
            space=space, name=space.name, num_trials=space.search.num_trials, began=clock()
        )
        self._live = Live(
            console=console,
            get_renderable=self._picture,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def log_to(self, path: Path) -> None:
        """Keeps what others print in this file."""
        self._captured.log_to(path)

    def print(self, text: str) -> None:
        """Writes text, as it is, to the standard output."""
        print(text, file=self._captured.out, flush=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self._live.stop()

    def started(
        self,
        *,
        name: str,
        num_trials: int,
        concurrent: int,
        tracking_uri: str,
        home: str,
        num_done: int = 0,
    ) -> None:
        """A sweep begins.

        Args:
            concurrent: How many trials run at once, at most.
            num_done: How many of its trials ended before, in a study that is resumed.
        """
        self._home = home
        self._progress = SweepProgress(
            space=self._space, name=name, num_trials=num_trials, began=self._clock(), num_before=num_done
        )
        before = f", {num_done} of them done" if num_done else ""
        fields = {
            "study": name,
            "objective": self._objectives(),
            "trials": f"{num_trials}{before}, {concurrent} at once",
            "tracking": tracking_uri,
            "stored in": str(home),
            "resume": self._command("resume"),
        }
        for key, value in fields.items():
            self._line(f"{key:<10} {value}")
        self._line("")
        if self._mode == "live":
            self._live.start()

    def note(self, sentence: str) -> None:
        """Something that the person at the terminal should know."""
        self._line(sentence)

    def caching(self, num_done: int, num_parts: int, *, images_per_second: float) -> None:
        """So much is there of an embedding cache that trials will need."""
        pace = f", {images_per_second:,.0f} images a second" if images_per_second else ""
        with self._lock:
            tenths, self._tenths = self._tenths, 10 * num_done // num_parts
            self._caching = f"caching the teacher's embeddings: {num_done}/{num_parts} parts{pace}"
        if self._tenths != tenths:
            self._event(self._caching)

    def caching_ended(self) -> None:
        """The cache is there, or nobody builds it any more."""
        with self._lock:
            self._caching, self._tenths = "", -1

    def trial_started(self, number: int, params: Mapping[str, Any]) -> None:
        """A trial begins."""
        with self._lock:
            self._progress.start(number, params, now=self._clock())
        settings = " ".join(f"{self._short.get(name, name)}={setting_text(params[name])}" for name in params)
        self._event(f"trial {number} started: {settings}")

    def trial_epoch(self, number: int, epoch: int, epochs: int, value: float) -> None:
        """A trial finished an epoch, of so many, and measured its first objective."""
        with self._lock:
            self._progress.report(number, epoch=epoch, epochs=epochs, value=value)
        self._event(f"trial {number} epoch {epoch}/{epochs}: {metric_text(value)}")

    def trial_finished(self, number: int, state: State, value: float | None, seconds: float) -> None:
        """A trial ended, with its best value."""
        with self._lock:
            self._progress.finish(number, state, value=value, seconds=seconds)
            done, best = self._progress.num_done, self._progress.best
        reached = f" at {metric_text(value)}" if value is not None else ""
        leads = f", best {metric_text(best.best)} in trial {best.number}" if best else ""
        count = f"{done}/{self._progress.num_trials} done{leads}"
        self._event(f"trial {number} {state}{reached} after {duration(seconds)}: {count}")

    def finished(
        self, rows: Sequence[TrialRow], *, teacher: Mapping[str, float] | None, sentences: Sequence[str]
    ) -> None:
        """The sweep ended.

        Args:
            rows: Its trials, ranked.
            teacher: The teacher's metrics, to compare with.
            sentences: What else there is to say, a line each.
        """
        self._live.stop()
        if rows and self._mode != "silent":
            gap = "\n" if self._mode == "plain" else ""
            self._line(f"{gap}Best first by {self._objectives()}\n")
            width = self._console.width
            board = as_table(
                rows, self._space.objectives, teacher=teacher, limit=TOP, width=width, symbols=self._symbols
            )
            self._console.print(board)
        if len(rows) > TOP:
            self._line(f"and {len(rows) - TOP} more: {self._command('leaderboard')}")
        self._line("")
        for sentence in sentences:
            self._line(sentence)

    def _event(self, text: str) -> None:
        if self._mode == "plain":
            self.print(text)

    def _line(self, text: str) -> None:
        """Prints a line that a narrow terminal may break, but that stays one line when it is copied."""
        if self._mode != "silent":
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _picture(self) -> RenderableType:
        with self._lock:
            size = self._console.size = _terminal_size(self._console)
            height = size.height - 1 if self._caching else size.height
            picture = self._progress.picture(
                width=size.width, height=height, now=self._clock(), symbols=self._symbols
            )
            return Group(self._caching[: size.width], picture) if self._caching else picture

    def _objectives(self) -> str:
        return " and ".join(f"{o.metric} ({o.direction})" for o in self._space.objectives)

    def _command(self, verb: str) -> str:
        return shlex.join(["sweeps", verb, self._progress.name, "--home", str(self._home)])


def _terminal_size(console: Console) -> ConsoleDimensions:
    """Size of the terminal that a console's file is on; rich would ask descriptors that were taken away."""
    try:
        return ConsoleDimensions(*os.get_terminal_size(console.file.fileno()))
    except OSError:
        return ConsoleDimensions(PLAIN_WIDTH, 25)
