"""How a sweep stands, and the picture of it that a terminal shows while it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len
from rich.console import Group
from rich.text import Text

from sweeps.columns import (
    STATE_WIDTH,
    Column,
    duration,
    fitted_table,
    metric_text,
    setting_text,
    short_names,
    state_cell,
)
from sweeps.leaderboard import State
from sweeps.space import AnyParameter, FloatParameter, SearchSpace

BAR_WIDTH = 8
_LEAST_NAME = 12
"""Characters of a study's name that are shown before anything else in the header."""
_THREE_DIGITS, _SMALLEST = 1.11, 1e-4
"""What makes a range's round end as long as the numbers inside; what stands for an end of zero."""
_NOT_TRIALS = 3
"""Lines of the picture that are not trials: a header, a gap and the columns' names."""


@dataclass
class TrialProgress:
    """How one trial stands. Times are those of the caller's clock, in seconds."""

    number: int
    params: Mapping[str, Any]
    began: float
    state: State = "running"
    epoch: int = 0
    epochs: int = 0
    best: float | None = None
    seconds: float = 0.0


@dataclass
class SweepProgress:
    """How a sweep stands, as far as its events were told.

    Attributes:
        num_before: Trials that ended before this process took the study up.
        trials: Those of this process, in the order that they began.
    """

    space: SearchSpace
    name: str
    num_trials: int
    began: float
    num_before: int = 0
    trials: dict[int, TrialProgress] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._widths = {name: _value_width(parameter) for name, parameter in self.space.parameters.items()}

    @property
    def num_done(self) -> int:
        """Trials that ended, now or before. Interrupted ones will be tried again."""
        return self.num_before + sum(t.state not in ("running", "interrupted") for t in self.trials.values())

    @property
    def best(self) -> TrialProgress | None:
        """The best trial that completed; before any did, the best of those that run."""
        maximize = self.space.objectives[0].direction == "maximize"
        for state in ("complete", "running"):
            found = [t for t in self.trials.values() if t.state == state and t.best is not None]
            if found:
                return max(found, key=lambda t: (t.best or 0.0) * (1 if maximize else -1))
        return None

    def start(self, number: int, params: Mapping[str, Any], *, now: float) -> None:
        """A trial begins."""
        self.trials[number] = TrialProgress(number=number, params=dict(params), began=now)

    def report(self, number: int, *, epoch: int, epochs: int, value: float) -> None:
        """A trial finished an epoch."""
        trial = self.trials[number]
        trial.epoch, trial.epochs = epoch, epochs
        maximize = self.space.objectives[0].direction == "maximize"
        if trial.best is None or (value > trial.best if maximize else value < trial.best):
            trial.best = value

    def finish(self, number: int, state: State, *, value: float | None, seconds: float) -> None:
        """A trial ended."""
        trial = self.trials[number]
        trial.state, trial.seconds = state, seconds
        trial.best = trial.best if value is None else value

    def seconds_left(self, *, now: float) -> float | None:
        """How long the rest takes at the pace so far; None while there is none to go by."""
        done = self.num_done - self.num_before
        if done < 2:
            return None
        return (now - self.began) / done * (self.num_trials - self.num_done)

    def picture(self, *, width: int, height: int, now: float, symbols: bool) -> Group:
        """Draws the sweep: running trials, and as many of the latest others as there is room for."""
        trials = self._shown(max(1, height - _NOT_TRIALS - 1))
        states = [state_cell(trial.state, symbols=symbols) for trial in trials]
        times = [_time(trial, now=now) for trial in trials]
        columns = [
            Column("trial", [str(trial.number) for trial in trials], right=True),
            Column("state", states, width=STATE_WIDTH),
            Column("epoch", [_epochs(trial, symbols=symbols) for trial in trials], width=BAR_WIDTH + 6),
            Column("best", [self._best_cell(trial) for trial in trials], right=True, width=6),
            Column("time", times, right=True, keep=1, width=6),
        ]
        for index, (name, head) in enumerate(short_names(list(self.space.parameters)).items(), start=2):
            cells = [setting_text(trial.params.get(name)) for trial in trials]
            columns.append(Column(head, cells, keep=index, width=self._widths[name]))
        return Group(self._header(width=width, now=now), "", fitted_table(columns, width=width))

    def _shown(self, limit: int) -> list[TrialProgress]:
        running = [trial for trial in self.trials.values() if trial.state == "running"][-limit:]
        ended = [trial for trial in self.trials.values() if trial.state != "running"]
        room = limit - len(running)
        return sorted([*running, *(ended[-room:] if room else [])], key=lambda trial: trial.number)

    def _header(self, *, width: int, now: float) -> Text:
        parts = [f"{self.num_done}/{self.num_trials} trials"]
        if (best := self.best) is not None:
            parts.append(f"best {metric_text(best.best)} in trial {best.number}")
        left = self.seconds_left(now=now)
        parts.append(f"{duration(now - self.began)} so far{f', about {duration(left)} left' if left else ''}")
        name_width = min(cell_len(self.name), _LEAST_NAME)
        while parts and name_width + cell_len(_joined(parts)) > width:
            parts.pop()
        header = Text(self.name, style="bold", no_wrap=True)
        header.truncate(width - cell_len(_joined(parts)), overflow="ellipsis")
        return header.append(_joined(parts), style="not bold")

    def _best_cell(self, trial: TrialProgress) -> Text:
        return Text(metric_text(trial.best), style="bold" if trial is self.best else "")


def _value_width(parameter: AnyParameter) -> int:
    """Characters of the longest value that a parameter may show, so that its column keeps its width."""
    values = parameter.ends()
    if isinstance(parameter, FloatParameter):
        values = parameter.grid() or [_THREE_DIGITS * (end or _SMALLEST) for end in parameter.ends()]
    return max(len(setting_text(value)) for value in values)


def _joined(parts: Sequence[str]) -> str:
    return "".join(f"   {part}" for part in parts)


def _time(trial: TrialProgress, *, now: float) -> str:
    """How long a trial has taken; nothing for one that was never trained."""
    if trial.state == "infeasible" and not trial.epoch:
        return ""
    return duration(now - trial.began if trial.state == "running" else trial.seconds)


def _epochs(trial: TrialProgress, *, symbols: bool) -> Text:
    """How far a trial is: `3/8` and a bar, of heavy and light strokes so that it needs no colour."""
    if not trial.epochs:
        return Text("")
    filled = round(BAR_WIDTH * trial.epoch / trial.epochs)
    heavy, light = ("━", "─") if symbols else ("#", ".")
    count = f"{trial.epoch}/{trial.epochs}"
    return Text.assemble(f"{count:<6}", (heavy * filled, "blue"), (light * (BAR_WIDTH - filled), "dim"))
