"""The small parts of the report, against numbers made by hand."""

import itertools
import random

import pytest
from matplotlib.figure import Figure

from sweeps.pages.cost import busy_seconds
from sweeps.pages.pareto import front_of
from sweeps.pages.quantities import counted, listed, quantity
from sweeps.pages.style import scale_log


def test_time_in_which_nothing_ran_is_not_busy() -> None:
    # Two that overlap, a night, and two of which one lies within the other.
    assert busy_seconds([(0, 10), (5, 12), (100, 120), (105, 110)]) == 12 + 20
    assert busy_seconds([]) == 0


def test_the_front_is_what_nobody_surpasses() -> None:
    rng = random.Random(0)
    losses = {n: (rng.randint(0, 6), rng.randint(0, 6), rng.randint(0, 6)) for n in range(60)}
    expected = set(losses)
    for (number, own), (_, other) in itertools.permutations(losses.items(), 2):
        if max(b - a for a, b in zip(own, other, strict=True)) <= 0 and other != own:
            expected.discard(number)
    assert front_of({n: tuple(map(float, values)) for n, values in losses.items()}) == expected


@pytest.mark.parametrize(
    ("metric", "label", "value", "text"),
    [
        ("validation/verification_accuracy", "validation verification accuracy, %", 0.9316, "93.16 %"),
        ("benchmark/eer", "benchmark EER, %", 0.0637, "6.37 %"),
        (
            "validation/fairness/shared_threshold_std",
            "validation fairness shared threshold STD, points",
            0.0345,
            "3.45 points",
        ),
        ("validation/tar_at_far_1e-2", "validation TAR at FAR 1e-2, %", 0.5, "50.00 %"),
        ("validation/fairness/own_threshold_ser", "validation fairness own threshold SER", 1.25, "1.25"),
        ("efficiency/parameters", "parameters, millions", 571_120.0, "0.57 M"),
        ("efficiency/weight_bytes", "size of the weights, MB", 2_300_000.0, "2.30 MB"),
        ("train/loss", "train loss", 0.00123, "0.00123"),
    ],
)
def test_metrics_read_as_people_write_them(metric: str, label: str, value: float, text: str) -> None:
    assert quantity(metric).label == label
    assert quantity(metric).text(value) == text


def test_numbers_and_lists_agree_with_their_nouns() -> None:
    assert [counted(n, "trial") for n in (0, 1, 1200)] == ["0 trials", "1 trial", "1,200 trials"]
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (2e-3, 1e-2, ["0.002", "0.005", "0.01"]),
        (1e-4, 1e-2, ["0.0001", "0.0003", "0.001", "0.003", "0.01"]),
        (1e-6, 1.0, ["1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1", "1"]),
        (1.1, 1.4, ["1.1", "1.2", "1.3", "1.4"]),
    ],
)
def test_a_logarithmic_axis_has_ticks_that_are_written_out(
    low: float, high: float, labels: list[str]
) -> None:
    axes = Figure().subplots()
    axes.set_xlim(low, high)
    scale_log(axes, "x", low, high)
    axes.set_xlim(low, high)
    assert [label.get_text() for label in axes.get_xticklabels()] == labels
