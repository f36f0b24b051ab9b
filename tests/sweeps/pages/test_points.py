"""Where points are trained with several seeds, the page shows points: their means, and how far seeds go."""

from pathlib import Path

import numpy as np
import optuna
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from sweeps.pages import parameters, pareto, search, tables
from sweeps.pages.knowledge import MEANS, Knowledge
from sweeps.pages.spread import spread_bars
from sweeps.pages.words import summary
from tests.sweeps.pages.conftest import ACCURACY, PARAMETERS, TEACHER_METRICS, Trial, make_study
from tests.sweeps.pages.test_report import MIXED, SPACE, TINY, WIDE

SLOW = {**TINY, "optimizer.lr": 2e-4}
# Point 0: 90, 80, 70 %. Point 1: 86 and 60 %, confirmed by 84 and 82 %. Point 2: failed, then 50 %.
REPEATED = [
    Trial(TINY, curve=[0.8, 0.9]),
    Trial(WIDE, curve=[0.7, 0.86], size=400_000.0),
    Trial(SLOW, "failed", reason="it raised"),
    Trial({**WIDE, "optimizer.lr": 2e-3}, "pruned", curve=[0.4], size=400_000.0),
    Trial(TINY, curve=[0.7, 0.8], repeats=(0, 0)),
    Trial(TINY, curve=[0.6, 0.7], repeats=(0, 1)),
    Trial(WIDE, curve=[0.5, 0.6], size=400_000.0, repeats=(1, 0)),
    Trial(SLOW, curve=[0.4, 0.5], repeats=(2, 0)),
    Trial(WIDE, curve=[0.8, 0.84], size=400_000.0, repeats=(1, 1), confirms=True),
    Trial(WIDE, curve=[0.8, 0.82], size=400_000.0, repeats=(1, 2), confirms=True),
    Trial({**TINY, "optimizer.lr": 5e-3}, curve=[0.3, 0.4]),
]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Knowledge:
    root = tmp_path_factory.mktemp("repeated")
    return Knowledge(make_study(root, SPACE, REPEATED, teacher=TEACHER_METRICS), "tiny")


def test_a_point_is_the_mean_of_the_trainings_that_count(known: Knowledge) -> None:
    points = {row.number: row for row in known.points}
    assert {number: row.state for number, row in points.items()} == {
        0: "complete",
        1: "complete",
        2: "complete",
        3: "pruned",
        10: "complete",
    }
    means = {number: (row.values or [0.0])[0] for number, row in points.items()}
    assert means == pytest.approx({0: 0.8, 1: 0.83, 2: 0.5, 3: 0.4, 10: 0.4})
    assert points[1].metrics[ACCURACY] == pytest.approx(0.83)
    assert points[1].metrics[PARAMETERS] == 400_000.0
    assert {number: spread[ACCURACY] for number, spread in known.spreads.items()} == pytest.approx(
        {0: 0.1, 1: 0.02 / 2**0.5}
    )
    assert known.best_point is points[1]  # it was confirmed
    assert known.best is not None
    assert known.best.point == 1


def test_a_study_without_repeats_is_shown_by_its_trials(tmp_path: Path) -> None:
    plain = Knowledge(make_study(tmp_path, SPACE, MIXED), "tiny")
    assert plain.points is plain.rows
    assert plain.best_point is plain.best
    assert (plain.spreads, plain.about_points, plain.points_are) == ({}, "", "trial")


def test_the_pictures_say_that_they_show_points(known: Knowledge) -> None:
    (history,) = search.history(known).pictures
    assert history.alt.startswith("validation verification accuracy of 5 points by their number")
    assert "the best completed one reached 83.00 %" in history.alt
    assert history.caption.endswith(MEANS)
    first, *_ = pareto.fronts(known).pictures
    # Of the complete, point 0 is the better of the small ones, and point 1 the best of all.
    assert (
        first.alt
        == "validation verification accuracy against parameters of 5 points, 2 of them on the front."
    )
    assert MEANS in first.caption
    sliced = parameters.slices(known)
    assert sliced.text == [MEANS.strip()]
    assert "against optimizer.lr in 5 points" in sliced.pictures[-1].alt
    (parallel,) = parameters.parallel(known).pictures
    assert parallel.alt.startswith("A line for each of 5 points")
    assert "at the mean of its trainings" in parallel.caption


def test_importances_are_of_points_by_their_means(known: Knowledge, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[optuna.Study] = []
    importance = optuna.importance.get_param_importances

    def noted(study: optuna.Study) -> dict[str, float]:
        seen.append(study)
        return importance(study)

    monkeypatch.setattr(optuna.importance, "get_param_importances", noted)
    (picture,) = parameters.importances(known).pictures
    assert "over 4 completed points" in picture.caption
    values = sorted(trial.values[0] for trial in seen[0].trials if trial.values)
    assert values == pytest.approx([0.4, 0.5, 0.8, 0.83])
    assert len(seen[0].trials) == 4


def test_bars_reach_a_standard_deviation_to_either_side(known: Knowledge) -> None:
    axes: Axes = Figure().subplots()
    spread_bars(axes, known, {0: (0, 80.0), 10: (10, 40.0)}, ACCURACY)
    (bars,) = axes.collections
    assert isinstance(bars, LineCollection)
    (bar,) = bars.get_segments()
    assert np.asarray(bar) == pytest.approx(np.array([[0, 70.0], [0, 90.0]]))


def test_the_leaderboard_ranks_points_and_tells_seeds_apart(known: Knowledge) -> None:
    content = tables.leaderboard(known)
    (table,) = content.tables
    rows = [dict(zip(table.head, row, strict=True)) for row in table.rows[1:]]
    label = "validation verification accuracy, %"
    stands = [(row["rank"], row["trial"], row["seed"], row[f"{label}, of the point"]) for row in rows]
    assert stands == [
        ("1", "1", "", "83.0000 ± 1.4142 of 2"),
        ("1", "8", "+2, confirms", ""),
        ("1", "9", "+3, confirms", ""),
        ("1", "6", "+1", ""),
        ("2", "0", "", "80.0000 ± 10.0000 of 3"),
        ("2", "4", "+1", ""),
        ("2", "5", "+2", ""),
        ("3", "7", "+1", "50.0000"),
        ("4", "10", "", "40.0000"),
        ("", "3", "", ""),
        ("", "2", "", ""),
    ]
    assert "Of a finalist, the trainings that confirm it count alone" in content.text[0]
    assert "Its point comes to 83.00 % ± 1.41 % over 2 confirming seeds" in " ".join(summary(known))
