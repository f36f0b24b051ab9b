"""The leaderboard ranks what can be handed over first, and loses nothing on the way to CSV and JSON."""

import csv
import io
import json

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
    console.print(as_table(rows, [ACCURACY], width=width, **options))
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
    rows = [row(n, 0.9, params={"student.name": "mobilefacenet", "optimizer.lr": 1e-3}) for n in range(3)]
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
        row(0, 0.123456789, params={"optimizer.lr": 1e-3}, epochs=8, run_id="abc"),
        row(1, state="failed", params={"student.width": 0.5}, reason='RuntimeError: "a, b"'),
    ]
    first, second = csv.DictReader(io.StringIO(as_csv(rows, [ACCURACY])))
    assert (first["rank"], first["trial"], first["state"]) == ("1", "0", "complete")
    assert float(first[ACCURACY.metric]) == 0.123456789
    assert (first["optimizer.lr"], first["student.width"], first["run_id"]) == ("0.001", "", "abc")
    assert (second["rank"], second["student.width"]) == ("", "0.5")
    assert second["reason"] == 'RuntimeError: "a, b"'


def test_json_holds_study_objectives_teacher_and_trials() -> None:
    document = as_json([row(0, 0.9, run_id="abc")], [ACCURACY], study="s", teacher={ACCURACY.metric: 0.97})
    assert json.loads(json.dumps(document)) == document
    assert document["study"] == "s"
    assert document["objectives"] == [{"metric": ACCURACY.metric, "direction": "maximize"}]
    assert document["teacher"] == {ACCURACY.metric: 0.97}
    assert document["trials"][0]["rank"] == 1
    assert document["trials"][0]["run_id"] == "abc"
    assert document["trials"][0]["metrics"] == {ACCURACY.metric: 0.9, SIZE.metric: 10}
