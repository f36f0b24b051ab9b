"""The leaderboard ranks what can be handed over first, and loses nothing on the way to CSV and JSON."""

import csv
import io
import json
import math

import pytest
from rich.console import Console

from sweeps.leaderboard import TrialRow, as_csv, as_json, as_table, rank
from sweeps.space import Bound, Objective

ACCURACY = Objective(metric="validation/verification_accuracy", direction="maximize")
SIZE = Objective(metric="efficiency/parameters", direction="minimize")
SMALL = Bound(metric="efficiency/parameters", at_most=100)


def row(number: int, accuracy: float | None = None, size: float = 10, **fields) -> TrialRow:
    metrics = {} if accuracy is None else {ACCURACY.metric: accuracy, SIZE.metric: size}
    fields.setdefault("state", "complete")
    return TrialRow(number=number, values=None if accuracy is None else [accuracy], metrics=metrics, **fields)


def numbers(rows: list[TrialRow]) -> list[int]:
    return [row.number for row in rows]


def shown(rows: list[TrialRow], width: int = 120, **options) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(as_table(rank(rows, [ACCURACY], []), [ACCURACY], width=width, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_completed_trials_lead_by_the_objective_and_the_others_follow_by_how_they_ended() -> None:
    rows = [
        row(0, state="running"),
        row(1, state="failed"),
        row(2, 0.99, state="pruned"),
        row(3, 0.7),
        row(4, state="interrupted"),
        row(5, 0.9),
        row(6, 0.995, state="pruned"),
        row(7, state="infeasible"),
    ]
    assert numbers(rank(rows, [ACCURACY], [])) == [5, 3, 6, 2, 7, 1, 4, 0]


def test_less_is_better_where_the_objective_says_so() -> None:
    rows = [row(0, 0.9), row(1, 0.7)]
    loss = Objective(metric=ACCURACY.metric, direction="minimize")
    assert numbers(rank(rows, [loss], [])) == [1, 0]


def test_equal_trials_keep_the_order_in_which_they_were_drawn() -> None:
    assert numbers(rank([row(3, 0.9), row(1, 0.9), row(2, 0.9)], [ACCURACY], [])) == [1, 2, 3]


def test_a_completed_trial_that_breaks_a_constraint_is_infeasible_and_says_why() -> None:
    rows = rank([row(0, 0.99, size=200), row(1, 0.7, size=50)], [ACCURACY], [SMALL])
    assert [(r.number, r.state) for r in rows] == [(1, "complete"), (0, "infeasible")]
    assert rows[1].reason == "it does not keep efficiency/parameters at most 100"


def test_of_several_objectives_no_trial_stands_behind_one_that_it_surpasses_in_all() -> None:
    points = [(0.9, 50), (0.8, 20), (0.7, 30), (0.95, 90), (0.6, 40), (0.8, 60)]
    rows = [TrialRow(number=n, state="complete", values=list(values)) for n, values in enumerate(points)]
    assert numbers(rank(rows, [ACCURACY, SIZE], [])) == [3, 0, 1, 5, 2, 4]


def test_the_table_compares_with_the_teacher_first() -> None:
    lines = shown([row(0, 0.9)], teacher={ACCURACY.metric: 0.971}).splitlines()
    assert lines[1].split() == ["teacher", "0.9710"]
    assert lines[2].split()[:5] == ["1", "0", "✓", "complete", "0.9000"]


def test_the_table_leaves_parameters_out_rather_than_wrap() -> None:
    rows = [row(n, 0.9, settings={"student.name": "mobilefacenet", "optimizer.lr": 1e-3}) for n in range(3)]
    assert "mobilefacenet" in shown(rows, width=120)
    narrow = shown(rows, width=60)
    assert "student" in narrow
    assert "lr" not in narrow
    assert all(len(line) <= 60 for line in narrow.splitlines())


def test_the_table_shows_as_many_trials_as_asked_for() -> None:
    assert len(shown([row(n, 0.9) for n in range(20)], limit=10).splitlines()) == 11


def test_the_table_needs_no_more_than_ascii() -> None:
    shown([row(0, 0.9), row(1, state="failed")], symbols=False).encode("ascii")


def test_csv_holds_every_number_in_full() -> None:
    rows = [
        row(0, 0.123456789, settings={"optimizer.lr": 1e-3}, epochs=8, run_id="abc"),
        row(1, state="failed", settings={"student.width": 0.5}, reason='RuntimeError: "a, b"'),
    ]
    first, second = csv.DictReader(io.StringIO(as_csv(rank(rows, [ACCURACY], []), [ACCURACY])))
    assert (first["rank"], first["trial"], first["state"]) == ("1", "0", "complete")
    assert float(first[ACCURACY.metric]) == 0.123456789
    assert (first["optimizer.lr"], first["student.width"], first["run_id"]) == ("0.001", "", "abc")
    assert (second["rank"], second["student.width"]) == ("", "0.5")
    assert second["reason"] == 'RuntimeError: "a, b"'


def test_json_holds_study_objectives_teacher_and_trials() -> None:
    rows = rank([row(0, 0.9, run_id="abc")], [ACCURACY], [])
    document = as_json(rows, [ACCURACY], study="s", teacher={ACCURACY.metric: 0.97})
    assert json.loads(json.dumps(document)) == document
    assert document["study"] == "s"
    assert document["objectives"] == [{"metric": ACCURACY.metric, "direction": "maximize"}]
    assert document["teacher"] == {ACCURACY.metric: 0.97}
    assert document["trials"][0]["rank"] == 1
    assert document["trials"][0]["run_id"] == "abc"
    assert document["trials"][0]["metrics"] == {ACCURACY.metric: 0.9, SIZE.metric: 10}


def test_points_are_ranked_by_the_mean_of_their_seeds() -> None:
    lucky = [row(0, 0.95), row(2, 0.85, repeats=0, seed_offset=1)]
    steady = [row(1, 0.92), row(3, 0.91, repeats=1, seed_offset=1)]
    ranked = rank([*lucky, *steady], [ACCURACY], [])
    assert numbers(ranked) == [1, 3, 0, 2]
    first = ranked[0].standing
    assert first is not None
    assert (first.place, first.num_seeds, first.is_confirmed) == (1, 2, False)
    assert first.mean == pytest.approx([0.915])
    assert first.spread == pytest.approx([0.01 / math.sqrt(2)])


def test_a_finalist_is_ranked_by_the_seeds_that_confirm_it_and_before_all_that_were_not() -> None:
    finalist = [row(0, 0.95), row(3, 0.90, repeats=0, confirms=True), row(4, 0.88, repeats=0, confirms=True)]
    ranked = rank([*finalist, row(1, 0.94), row(2, 0.93)], [ACCURACY], [])
    assert numbers(ranked) == [0, 3, 4, 1, 2]
    assert ranked[0].standing is not None
    assert ranked[0].standing.mean == pytest.approx([0.89])
    assert ranked[0].standing.is_confirmed


def test_a_seed_that_did_not_complete_does_not_count() -> None:
    ranked = rank(
        [row(0, 0.9), row(1, state="failed", repeats=0), row(2, 0.1, state="pruned", repeats=0)],
        [ACCURACY],
        [],
    )
    assert ranked[0].standing is not None
    assert ranked[0].standing.num_seeds == 1


def test_the_table_shows_a_point_once_with_the_mean_and_spread_of_its_seeds() -> None:
    text = shown([row(0, 0.95), row(1, 0.85, repeats=0), row(2, 0.7)])
    assert "0.9000 ± 0.0707" in text
    assert len(text.splitlines()) == 3


def test_fronts_are_peeled_one_after_the_other() -> None:
    objectives = [ACCURACY, SIZE]
    rows = [
        TrialRow(number=n, state="complete", values=[a, s], metrics={ACCURACY.metric: a, SIZE.metric: s})
        for n, (a, s) in enumerate([(0.9, 100), (0.8, 50), (0.8, 60), (0.7, 50), (0.7, 70), (0.6, 10)])
    ]
    standings = {r.number: r.standing for r in rank(rows, objectives, [])}
    assert {n: s.front for n, s in standings.items() if s} == {0: 0, 1: 0, 5: 0, 2: 1, 3: 1, 4: 2}
