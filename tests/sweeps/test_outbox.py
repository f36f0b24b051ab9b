"""Records on disk: in order, whole, and remembered as sent."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.outbox import Outbox, Record


def record(number: int, **fields: object) -> Record:
    return Record.model_validate({"run": number, "at": 1_000 + number, **fields})


def drained(outbox: Outbox) -> list[int | None]:
    """The trials of what waits, which is acknowledged."""
    numbers = []
    while waiting := outbox.first(timeout_s=0, at_most=2):
        numbers += [each.record.run for each in waiting]
        outbox.acknowledge(waiting, sweep_run="a")
    return numbers


def test_records_come_out_as_and_in_the_order_they_went_in(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    records = [
        record(0, opens="000 tiny", params={"a": "1"}, texts={"config.json": '{"a": "é\\n"}'}),
        record(0, metrics={"validation/auc": 0.5, "train/loss": float("inf")}, step=3),
        record(0, datasets=[], status="FINISHED", folder="/x", folder_as="student"),
    ]
    for each in records:
        outbox.append(each)
    assert list(outbox.history()) == records
    assert [outbox.num_waiting, drained(outbox), outbox.num_waiting] == [3, [0, 0, 0], 0]


def test_what_waits_is_given_together_up_to_a_number(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for number in range(5):
        outbox.append(record(number))
    waiting = outbox.first(timeout_s=0, at_most=3)
    assert [each.record.run for each in waiting] == [0, 1, 2]
    outbox.acknowledge(waiting, sweep_run="a")
    assert outbox.num_waiting == 2
    assert [each.record.run for each in outbox.first(timeout_s=0, at_most=3)] == [3, 4]
    assert Outbox(tmp_path).num_waiting == 2


def test_the_next_process_begins_with_the_first_record_that_was_not_acknowledged(tmp_path: Path) -> None:
    before = Outbox(tmp_path)
    for number in range(4):
        before.append(record(number))
    for _ in range(2):
        waiting = before.first(timeout_s=0)
        before.acknowledge(waiting, sweep_run="run-7")
    after = Outbox(tmp_path)
    assert (after.num_waiting, after.sweep_run) == (2, "run-7")
    assert drained(after) == [2, 3]


@pytest.mark.parametrize("kept", [1, -1])
def test_a_record_half_written_at_the_end_is_dropped_and_nothing_before_it(tmp_path: Path, kept: int) -> None:
    before = Outbox(tmp_path)
    for number in range(3):
        before.append(record(number))
    file = tmp_path / "records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1] + lines[2][:kept])
    after = Outbox(tmp_path)
    after.append(record(9))
    assert drained(after) == [0, 1, 9]


def test_zeros_that_a_power_cut_left_at_the_end_are_dropped(tmp_path: Path) -> None:
    Outbox(tmp_path).append(record(1))
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(bytes(64))
    after = Outbox(tmp_path)
    after.append(record(2))
    assert drained(after) == [1, 2]


def test_records_after_those_that_the_disk_lost_are_sent(tmp_path: Path) -> None:
    before = Outbox(tmp_path)
    for number in range(3):
        before.append(record(number))
    drained(before)
    file = tmp_path / "records.jsonl"
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    after = Outbox(tmp_path)
    after.append(record(9))
    assert drained(after) == [9]


def test_another_tracker_is_sent_everything(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for number in range(3):
        outbox.append(record(number))
    drained(outbox)
    outbox.rewind()
    assert (outbox.num_waiting, outbox.sweep_run) == (3, None)
    assert drained(outbox) == [0, 1, 2]


def test_a_refused_record_is_kept_with_its_reason(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.append(record(5, params={"a": "1"}))
    (waiting,) = outbox.first(timeout_s=0)
    outbox.put_aside(waiting, "no such run")
    kept = json.loads((tmp_path / "refused.jsonl").read_text())
    assert kept == {"reason": "no such run", "record": {"run": 5, "at": 1005, "params": {"a": "1"}}}


def test_what_a_killed_process_had_recorded_is_there(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from sweeps.outbox import Outbox, Record\n"
        "outbox = Outbox(Path(sys.argv[1]))\n"
        "for number in range(50): outbox.append(Record(run=number, at=0))\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    assert drained(Outbox(tmp_path)) == list(range(50))


def test_a_record_for_which_the_disk_has_no_room_leaves_no_trace(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.append(record(1))
    size = os.path.getsize(tmp_path / "records.jsonl")
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match=r"records\.jsonl"):
            outbox.append(record(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    outbox.append(record(3))
    assert drained(outbox) == [1, 3]
