"""Every kind of gate lets a student through or does not, and says by which numbers."""

import dataclasses
import json
import math
from typing import Any

import pytest

from distill.errors import InputError
from distill.evaluation import Interval, verification_metrics
from sweeps.promotion.gates import Champion, Verdict, judge, read_gate
from sweeps.promotion.measuring import Candidate, Measured
from sweeps.promotion.tables import gate_table
from sweeps.space import Bound, ChampionGate, Gate, GroupGate, TeacherGate
from tests.sweeps.promotion.two_students import BAD, GOOD, pairs

ACCURACY = "benchmark/verification_accuracy"
PACE = "efficiency/faces_per_second_batch_1"


@pytest.fixture(scope="module")
def champion() -> Champion:
    return Champion(
        version="4",
        measured=Measured(
            similarity_P=BAD,
            metrics=verification_metrics(BAD, pairs(), prefix="benchmark"),
            interval=Interval(low=0.5, high=0.6),
        ),
    )


def verdict(gate: Gate, candidate: Candidate, champion: Champion | None = None) -> Verdict:
    (said,) = judge([gate], candidate, champion)
    return said


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        (Bound(metric="benchmark/eer", at_most=0.06), True),
        (Bound(metric="benchmark/eer", at_most=0.0599), False),
        (Bound(metric="export/onnx_bytes", at_most=1_000_000), True),
        (Bound(metric="export/onnx_bytes", at_most=800_000), False),
        (Bound(metric="export/onnx_min_cosine", at_least=0.9999), True),
        (Bound(metric="export/onnx_min_cosine", at_least=0.999999), False),
    ],
)
def test_an_absolute_limit_is_kept_or_not(candidate: Candidate, gate: Bound, passed: bool) -> None:
    said = verdict(gate, candidate)
    assert said.passed is passed
    assert said.value == candidate.metrics[gate.metric]


def test_a_metric_that_is_no_number_passes_nothing(candidate: Candidate) -> None:
    undefined = dataclasses.replace(candidate, metrics={"benchmark/eer": math.nan})
    said = verdict(Bound(metric="benchmark/eer", at_most=0.5), undefined)
    assert not said.passed
    assert json.loads(json.dumps(said.document(), allow_nan=False))["value"] is None


@pytest.mark.parametrize(("share", "passed"), [(0.95, True), (0.97, False)])
def test_a_student_must_reach_its_share_of_the_teacher(
    candidate: Candidate, share: float, passed: bool
) -> None:
    said = verdict(TeacherGate(metric=ACCURACY, share_of_teacher_at_least=share), candidate)
    assert said.passed is passed
    assert said.value == pytest.approx(0.96)
    assert f"teacher {candidate.teacher_metrics[ACCURACY]:.4f}" in said.note


@pytest.mark.parametrize(("share", "passed"), [(1.3, True), (1.1, False)])
def test_errors_may_be_so_many_times_those_of_the_teacher(
    candidate: Candidate, share: float, passed: bool
) -> None:
    said = verdict(TeacherGate(metric="benchmark/eer", share_of_teacher_at_most=share), candidate)
    assert said.passed is passed
    assert said.value == pytest.approx(1.2)


def test_a_teacher_without_errors_leaves_none_to_the_student(candidate: Candidate) -> None:
    flawless = dataclasses.replace(candidate, teacher_metrics={"benchmark/eer": 0.0})
    assert not verdict(TeacherGate(metric="benchmark/eer", share_of_teacher_at_most=9), flawless).passed
    both = dataclasses.replace(flawless, metrics={"benchmark/eer": 0.0})
    assert verdict(TeacherGate(metric="benchmark/eer", share_of_teacher_at_most=1), both).passed


@pytest.mark.parametrize("limit", ["not_worse_than_champion_by", "better_than_champion_by"])
def test_without_a_champion_its_gates_pass_and_say_so(candidate: Candidate, limit: str) -> None:
    said = verdict(ChampionGate.model_validate({"metric": ACCURACY, limit: 0.01}), candidate)
    assert said.passed
    assert said.value is None
    assert said.note == "there is no champion yet"


def test_a_lead_counts_by_the_lower_end_of_its_interval(candidate: Candidate, champion: Champion) -> None:
    gate = ChampionGate(metric=ACCURACY, better_than_champion_by=0.0)
    said = verdict(gate, candidate, champion)
    lead = candidate.metrics[ACCURACY] - champion.measured.metrics[ACCURACY]
    assert said.value == pytest.approx(lead)
    low = float(said.note.split()[3])
    assert 0 < low < lead
    assert "95 % interval" in said.note
    assert "over people, against version 4" in said.note
    by_less = gate.model_copy(update={"better_than_champion_by": low - 1e-3})
    by_more = gate.model_copy(update={"better_than_champion_by": low + 1e-3})
    assert verdict(by_less, candidate, champion).passed
    assert not verdict(by_more, candidate, champion).passed


def test_a_student_that_lags_may_pass_by_the_margin_that_it_is_given(
    candidate: Candidate, champion: Champion
) -> None:
    lagging = dataclasses.replace(
        candidate, similarity_P=BAD, metrics=verification_metrics(BAD, pairs(), prefix="benchmark")
    )
    ahead = Champion(
        version="5",
        measured=dataclasses.replace(
            champion.measured,
            similarity_P=GOOD,
            metrics=verification_metrics(GOOD, pairs(), prefix="benchmark"),
        ),
    )
    narrow = ChampionGate(metric=ACCURACY, not_worse_than_champion_by=0.01)
    wide = ChampionGate(metric=ACCURACY, not_worse_than_champion_by=0.99)
    said = verdict(narrow, lagging, ahead)
    assert not said.passed
    assert said.value is not None
    assert said.value < 0
    assert verdict(wide, lagging, ahead).passed


def test_the_lowest_group_decides(candidate: Candidate) -> None:
    of_group = {
        group: candidate.metrics[f"benchmark/shared_threshold_accuracy_{group}"]
        for group in ("north", "east")
    }
    lowest = min(of_group, key=of_group.__getitem__)
    said = verdict(GroupGate(no_group_below=of_group[lowest]), candidate)
    assert said.passed
    assert said.value == of_group[lowest]
    assert said.note == f"{lowest} is the lowest of 2 groups"
    assert not verdict(GroupGate(no_group_below=of_group[lowest] + 1e-6), candidate).passed


def test_a_pace_says_on_which_machine(candidate: Candidate) -> None:
    import socket

    said = verdict(Bound(metric=PACE, at_least=400), candidate)
    assert said.passed
    assert said.note.startswith("quartiles 480 to 510, on one thread of ")
    assert said.note.endswith(socket.gethostname())


def test_a_verdict_is_a_sentence(candidate: Candidate) -> None:
    said = verdict(Bound(metric="benchmark/eer", at_most=0.05), candidate)
    assert str(said) == "gate benchmark/eer at most 0.05 failed with 0.06"


def test_gates_are_a_table_with_aligned_columns(candidate: Candidate, champion: Champion) -> None:
    gates = [
        Bound(metric="benchmark/eer", at_most=0.05),
        TeacherGate(metric=ACCURACY, share_of_teacher_at_least=0.95),
        ChampionGate(metric=ACCURACY, better_than_champion_by=0.002),
    ]
    head, *rows = gate_table(judge(gates, candidate, champion)).splitlines()
    assert [row.split()[0] for row in rows] == [gate.metric for gate in gates]
    at = head.index("verdict")
    assert [row[at : at + 6] for row in rows] == ["FAILED", "passed", "passed"]
    assert "at least 0.95 of the teacher's" in rows[1]
    assert "better than the champion's by 0.002" in rows[2]


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("benchmark/eer <= 0.1", {"metric": "benchmark/eer", "at_most": 0.1}),
        ("export/onnx_bytes<=1_000_000", {"metric": "export/onnx_bytes", "at_most": 1_000_000}),
        (f"{ACCURACY} >= 9e-1", {"metric": ACCURACY, "at_least": 0.9}),
        ("{no_group_below: 0.85}", {"no_group_below": 0.85}),
    ],
)
def test_a_gate_of_the_command_line_is_short_or_as_in_a_space(text: str, gate: dict[str, Any]) -> None:
    assert read_gate(text) == gate


@pytest.mark.parametrize("text", ["benchmark/eer", "benchmark/eer < 0.1", "0.9", "{metric: [", ""])
def test_what_is_no_gate_is_told_in_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match="--gate") as told:
        read_gate(text)
    assert len(str(told.value).splitlines()) == 1
