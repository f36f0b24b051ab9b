"""What is measured on a GPU runs at a toy size wherever there is none; its figures then mean nothing."""

import pytest
import torch

from benchmarks import paper_size, smallest_student_gpu
from benchmarks.__main__ import GPU_MEASUREMENTS, main

NEEDS_NONE = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


@pytest.mark.slow
def test_the_papers_size_is_set_against_the_published_loop_and_the_floor() -> None:
    rows = {row.name: row for row in paper_size.measure(quick=True)}
    assert rows.keys() == {"synthdistill_gpu_4", "synthdistill_gpu_floor"}
    assert all(rate > 0 for row in rows.values() for rate in [*row.ours, *(row.other or [])])
    assert rows["synthdistill_gpu_floor"].ours == rows["synthdistill_gpu_4"].ours


def test_the_smallest_student_is_set_against_its_paper() -> None:
    (row,) = smallest_student_gpu.measure(quick=True)
    assert row.ours[0] > 0
    assert row.other == [14_705.0]


@NEEDS_NONE
@pytest.mark.parametrize("name", GPU_MEASUREMENTS)
def test_without_a_gpu_nothing_else_is_measured_in_its_place(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--gpu", "--only", name])
    assert main() == 1
    printed = capsys.readouterr()
    assert f"could not be measured: {name}" in printed.err
    assert "there is none" in printed.err
