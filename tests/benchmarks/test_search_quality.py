"""The arithmetic of the benchmark of searching, on trials and curves made up by hand."""

import math

import numpy as np
import pytest

from benchmarks.search_quality import (
    RANDOM,
    SEARCH,
    Searched,
    as_json,
    as_markdown,
    epochs_to_reach,
    estimated,
    ratio_of_means,
    ratios,
    searched,
    verdict,
)
from sweeps.leaderboard import State, TrialRow


def trial(number: int, state: State, epochs: int, value: float | None) -> TrialRow:
    return TrialRow(number=number, state=state, epochs=epochs, values=None if value is None else [value])


def curve(*best: float) -> Searched:
    return Searched(best_E=np.array(best), num_trials=4, num_completed=2)


def test_the_best_so_far_is_of_completed_trials_and_counts_every_epoch() -> None:
    rows = [
        trial(0, "pruned", 1, 0.9),
        trial(1, "complete", 3, 0.6),
        trial(2, "failed", 1, None),
        trial(3, "complete", 3, 0.5),
        trial(4, "complete", 3, 0.7),
    ]
    run = searched(rows, budget=12)
    assert run.best_E.tolist() == [-math.inf] * 3 + [0.6] * 7 + [0.7] * 2
    assert (run.num_trials, run.num_completed) == (5, 3)


def test_the_trial_in_whose_course_the_budget_is_used_up_counts_and_none_after_it() -> None:
    rows = [trial(number, "complete", 3, value) for number, value in enumerate((0.6, 0.7, 0.8))]
    run = searched(rows, budget=5)
    assert run.best_E.tolist() == [-math.inf] * 2 + [0.6] * 2 + [0.7]
    assert run.num_trials == 2
    assert searched(rows, budget=6).best_E.tolist() == [-math.inf] * 2 + [0.6] * 3 + [0.7]


def test_epochs_of_an_interrupted_trial_are_counted_where_it_went_on() -> None:
    rows = [trial(0, "interrupted", 2, 0.4), trial(1, "complete", 3, 0.6), trial(2, "running", 1, 0.9)]
    run = searched(rows, budget=4)
    assert run.best_E.tolist() == [-math.inf] * 2 + [0.6] * 2
    assert run.num_trials == 1


@pytest.mark.parametrize(("target", "epochs"), [(0.1, 2), (0.5, 2), (0.6, 4), (0.61, math.inf)])
def test_a_value_is_reached_when_the_best_so_far_first_equals_it(target: float, epochs: float) -> None:
    assert epochs_to_reach(np.array([-math.inf, 0.5, 0.5, 0.6]), target) == epochs


def test_budgets_are_compared_seed_by_seed_and_never_is_more_than_any_budget() -> None:
    search = [curve(0.5, 0.7, 0.7, 0.8), curve(0.1, 0.2, 0.2, 0.3)]
    random = [curve(0.4, 0.4, 0.7, 0.7), curve(0.0, 0.4, 0.4, 0.4)]
    assert ratios(search, random) == [0.5, math.inf]
    assert ratios(random, random) == [0.75, 0.5]


def test_mean_curves_are_compared_where_every_seed_has_a_best() -> None:
    search = [curve(0.9, 0.9, 0.9, 0.9), curve(-math.inf, 0.3, 0.5, 0.7)]
    random = [curve(0.5, 0.6, 0.6, 0.6), curve(0.5, 0.5, 0.8, 0.8)]
    ratio = ratio_of_means(search, random)
    assert ratio.value == 0.75  # (0.9 + 0.5) / 2 is (0.6 + 0.8) / 2
    # A resample draws one seed of each: at best 0.9 at once, at worst 0.7 for 0.8.
    assert (ratio.interval.low, ratio.interval.high) == (0.25, math.inf)


def test_the_median_stands_where_a_minority_never_got_there() -> None:
    ratio = estimated([0.2, math.inf, 0.3, 0.4, math.inf], np.median)
    assert ratio.value == 0.4
    assert ratio.interval.low == 0.2
    assert ratio.interval.high == math.inf


def test_the_interval_of_a_mean_is_as_wide_as_its_standard_error_says() -> None:
    values = np.random.default_rng(1).normal(size=400).tolist()
    mean = estimated(values, np.mean)
    assert mean.value == pytest.approx(np.mean(values))
    assert mean.interval.high - mean.interval.low == pytest.approx(2 * 1.96 * np.std(values) / 20, rel=0.05)


@pytest.mark.parametrize(
    ("best", "ratio", "goal"),
    [
        ((0.6, 0.6, 0.6), "0.33", "reached"),
        ((0.5, 0.6, 0.6), "0.67", "not reached"),
        ((0.5, 0.5, 0.5), "more than 1", "not reached"),
    ],
)
def test_the_verdict_says_whether_the_goal_is_reached(best: tuple[float, ...], ratio: str, goal: str) -> None:
    sentence = verdict({SEARCH: [curve(*best)], RANDOM: [curve(0.5, 0.6, 0.6)]})
    assert f"after {ratio} of its budget" in sentence
    assert f"interval {ratio} to {ratio}" in sentence
    assert sentence.endswith(f"the goal of at most a third is {goal}.")


def test_tables_and_json_say_never_where_random_search_stays_ahead() -> None:
    found = {SEARCH: [curve(-math.inf, 0.5)], RANDOM: [curve(0.5, 0.6)]}
    rows = as_markdown(found, budget=2).splitlines()
    assert "| TPE + ASHA | 50.00 (50.00 to 50.00) | 4.0 | 2.0 |" in rows
    assert "| 0 | 60.00 | never | 2 |" in rows
    assert as_json(found, budget=2)["arms"]["TPE + ASHA"]["ratios"] == [None]
    assert as_json(found, budget=2)["arms"]["TPE + ASHA"]["best_so_far"] == [[None, 0.5]]
