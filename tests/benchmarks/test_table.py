from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import MEASUREMENTS
from benchmarks.row import Goal, Row, in_turns, quartiles
from benchmarks.table import Table, read_table, slower
from distill.errors import InputError

FASTER = Goal(side="at least", bound=2)
LIGHTER = Goal(side="at most", bound=0.4)


def row(ours: list[float], other: list[float] | None = None, *, goal: Goal = FASTER, **fields: Any) -> Row:
    return Row(
        **{"name": "loop", "what": "the loop", "unit": "faces a second", **fields},
        ours=ours,
        other=other,
        goal=goal,
    )


def table(*rows: Row, quick: bool = False) -> Table:
    return Table(rows=list(rows), quick=quick, made={"date": "2026-01-01"})


def test_ratios_are_taken_pair_by_pair_before_the_median() -> None:
    found = row([1, 2, 100], [1, 1, 200])
    assert found.compared == [1, 2, 0.5]
    assert found.median == 1  # the ratio of the medians is 2


def test_without_another_way_the_goal_bounds_the_values_themselves() -> None:
    found = row([0.1, 0.5, 0.3], goal=LIGHTER)
    assert found.compared == [0.1, 0.5, 0.3]
    assert found.meets_goal


def test_quartiles_are_those_of_hand_made_numbers() -> None:
    assert quartiles([5, 1, 3, 2, 4]) == (2, 4)
    assert quartiles([7]) == (7, 7)


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [(FASTER, 2.0, True), (FASTER, 1.99, False), (LIGHTER, 0.4, True), (LIGHTER, 0.41, False)],
)
def test_a_goal_is_met_at_its_bound(goal: Goal, value: float, met: bool) -> None:
    assert row([value], goal=goal).meets_goal is met


def test_values_without_their_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="as many of the other as of ours"):
        row([1, 2], [1])
    with pytest.raises(ValueError, match="must have values"):
        row([])


def test_ways_take_turns_and_every_second_turn_in_reverse() -> None:
    order: list[str] = []

    def noted(name: str) -> float:
        order.append(name)
        return float(len(order))

    ours, other = in_turns(lambda: noted("ours"), lambda: noted("other"), repetitions=3)
    assert order == ["ours", "other", "other", "ours", "ours", "other"]
    assert (ours, other) == ([1, 4, 5], [2, 3, 6])


def test_json_gives_the_same_table_back(tmp_path: Path) -> None:
    written = table(
        row([3, 4], [1, 2], note="one thread", against="a loop"), row([0.3], goal=LIGHTER, name="b")
    )
    written.write(tmp_path / "table.json")
    assert read_table(tmp_path / "table.json") == written
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"rows": [{}], "quick": false, "made": {}}'])
def test_a_file_that_is_no_table_is_told_in_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(InputError, match="is no table of benchmarks"):
        read_table(tmp_path / "old.json")


def test_a_missing_file_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_table(tmp_path / "old.json")


BEFORE = [10.0, 11.0, 12.0, 13.0, 14.0]  # its middle half is 11 to 13


@pytest.mark.parametrize(
    ("now", "goal", "worse"),
    [
        ([8, 9, 10, 10.5, 12], FASTER, True),
        ([8, 9, 10, 11.5, 12], FASTER, False),  # it reaches into the former middle half
        ([20, 21, 22, 23, 24], FASTER, False),
        ([12, 13.5, 14, 15, 16], LIGHTER, True),
        ([12, 12.5, 14, 15, 16], LIGHTER, False),
        ([1, 2, 3, 4, 5], LIGHTER, False),
    ],
)
def test_slower_is_what_lies_beyond_the_spread_on_the_bad_side(
    now: list[float], goal: Goal, worse: bool
) -> None:
    sentences = slower(table(row(now, goal=goal)), table(row(BEFORE, goal=goal)))
    assert len(sentences) == worse
    if worse:
        assert sentences[0].startswith("loop became slower: 12 before, ")


def test_rows_of_one_table_alone_are_not_compared() -> None:
    assert slower(table(row([1], name="new")), table(row([9], name="old"))) == []


def test_figures_of_the_least_sizes_are_not_compared_with_real_ones() -> None:
    with pytest.raises(InputError, match="least sizes"):
        slower(table(row([1]), quick=True), table(row([1])))


def test_the_table_says_where_a_goal_is_missed() -> None:
    lines = (
        table(row([3], [1], note="one thread"), row([1.5], [1], what="the slow loop")).markdown().splitlines()
    )
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[2].endswith("| at least 2 | yes |")
    assert lines[3].endswith("| at least 2 | no  |")
    assert "- the loop: one thread" in lines


def test_every_measurement_has_a_module() -> None:
    folder = Path(__file__).parents[2] / "benchmarks"
    assert [name for name in MEASUREMENTS if not (folder / f"{name}.py").is_file()] == []
