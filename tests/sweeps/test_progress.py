"""A sweep's picture fits every terminal and counts what ended."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from sweeps.progress import SweepProgress
from sweeps.space import SearchSpace, load_space


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("quickstart")


def progress(space: SearchSpace, *, num_trials: int = 16, name: str = "quickstart") -> SweepProgress:
    return SweepProgress(space=space, name=name, num_trials=num_trials, began=0.0)


def busy(space: SearchSpace, num_trials: int = 12) -> SweepProgress:
    """Trials that ended in every way, and two that run."""
    sweep = progress(space, name="a-study-whose-name-is-longer-than-most-others-are")
    states = ("complete", "pruned", "infeasible", "failed", "interrupted")
    for number in range(num_trials):
        sweep.start(number, space.first_point(), now=float(number))
        sweep.report(number, epoch=1 + number % 8, epochs=8, value=0.5 + number / 100)
        if number < num_trials - 2:
            sweep.finish(number, states[number % 5], value=0.5 + number / 100, seconds=4000.0)
    return sweep


def lines(sweep: SweepProgress, *, width: int, height: int, symbols: bool = True) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO())
    console.print(sweep.picture(width=width, height=height, now=5000.0, symbols=symbols))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [50, 60, 79, 80, 100, 120, 200])
@pytest.mark.parametrize("height", [8, 24, 50])
def test_the_picture_never_leaves_its_terminal(space: SearchSpace, width: int, height: int) -> None:
    drawn = lines(busy(space), width=width, height=height)
    assert len(drawn) <= height - 1
    assert max(cell_len(line.rstrip()) for line in drawn) <= width
    assert not any("…" in line for line in drawn[1:])


def test_the_picture_needs_no_more_than_ascii(space: SearchSpace) -> None:
    "".join(lines(busy(space), width=200, height=40, symbols=False)).encode("ascii")


def test_running_trials_are_shown_before_those_that_ended(space: SearchSpace) -> None:
    drawn = lines(busy(space), width=80, height=8)
    assert [line.split()[0] for line in drawn[3:]] == ["8", "9", "10", "11"]


def test_a_wide_terminal_shows_every_parameter_by_its_short_name(space: SearchSpace) -> None:
    heads = lines(busy(space), width=200, height=24)[2].split()
    assert heads[:5] == ["trial", "state", "epoch", "best", "time"]
    assert heads[5:] == ["student", "width", "lr", "resampling_coef", "raw_mse", "cosine"]


def test_the_header_counts_what_ended_and_names_the_best(space: SearchSpace) -> None:
    sweep = progress(space)
    for number, value in enumerate((0.8, 0.9, 0.7)):
        sweep.start(number, {}, now=0.0)
        sweep.report(number, epoch=8, epochs=8, value=value)
        sweep.finish(number, "complete", value=value, seconds=10.0)
    header = lines(sweep, width=120, height=24)[0]
    assert header.strip() == (
        "quickstart   3/16 trials   best 0.9000 in trial 1   1h23m so far, about 6h01m left"
    )


def test_the_best_of_a_trial_is_not_its_last(space: SearchSpace) -> None:
    sweep = progress(space)
    sweep.start(0, {}, now=0.0)
    for epoch, value in enumerate((0.8, 0.9, 0.7), start=1):
        sweep.report(0, epoch=epoch, epochs=8, value=value)
    assert sweep.trials[0].best == 0.9


def test_a_trial_that_was_stopped_early_is_not_the_best(space: SearchSpace) -> None:
    sweep = progress(space)
    sweep.start(0, {}, now=0.0)
    sweep.start(1, {}, now=0.0)
    sweep.finish(0, "pruned", value=0.9, seconds=1.0)
    sweep.finish(1, "complete", value=0.8, seconds=1.0)
    assert sweep.best is sweep.trials[1]


def test_an_interrupted_trial_is_still_to_be_done(space: SearchSpace) -> None:
    sweep = progress(space)
    sweep.start(0, {}, now=0.0)
    sweep.finish(0, "interrupted", value=None, seconds=1.0)
    assert sweep.num_done == 0


def test_the_time_left_is_told_at_the_pace_of_this_process(space: SearchSpace) -> None:
    sweep = SweepProgress(space=space, name="s", num_trials=16, began=0.0, num_before=10)
    for number in (10, 11):
        sweep.start(number, {}, now=0.0)
        sweep.finish(number, "complete", value=0.5, seconds=5.0)
    assert sweep.num_done == 12
    assert sweep.seconds_left(now=10.0) == 20.0
