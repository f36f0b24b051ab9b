"""Names and numbers stay short and tell things apart."""

import pytest

from sweeps.columns import Column, duration, fitted_table, metric_text, setting_text, short_names


def test_short_names_drop_what_all_of_them_say() -> None:
    names = ["student.name", "optimizer.lr", "losses.cosine.weight", "losses.raw_mse.weight"]
    assert list(short_names(names).values()) == ["student", "lr", "cosine", "raw_mse"]


def test_short_names_keep_what_tells_them_apart() -> None:
    assert short_names(["teacher.width", "student.width"]) == {
        "teacher.width": "teacher.width",
        "student.width": "student.width",
    }


def test_short_names_are_cut() -> None:
    assert list(short_names(["validation/verification_accuracy"]).values()) == ["verification_a…"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3599, "59m59s"), (3600, "1h00m")]
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.91234, "0.9123"), (0.0, "0.0000"), (0.00123, "0.00123"), (2e5, "200,000"), (None, "")],
)
def test_metrics_are_short(value: float | None, text: str) -> None:
    assert metric_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.000777, "0.000777"), (8, "8"), ("off", "off")])
def test_settings_are_short(value: object, text: str) -> None:
    assert setting_text(value) == text


def test_a_table_leaves_out_what_is_least_worth_keeping() -> None:
    columns = [Column("a", ["xxxx"]), Column("b", ["xxxx"], keep=1), Column("c", ["xxxx"], keep=2)]
    tables = [fitted_table(columns, width=width) for width in (16, 15, 9, 1)]
    assert [[column.header for column in table.columns] for table in tables] == [
        ["a", "b", "c"],
        ["a", "b"],
        ["a"],
        ["a"],
    ]
