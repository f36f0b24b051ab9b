"""The benchmark of long sweeps: what it compares, without running it."""

from pathlib import Path

import pytest

from benchmarks import long_sweep, search_quality
from benchmarks.long_sweep import WARM_UP, Look, summary
from sweeps.space import load_space


@pytest.mark.parametrize("text", [long_sweep.SPACE, search_quality.SPACE], ids=["long", "quality"])
def test_the_spaces_of_benchmarks_are_ones_that_sweeps_take(text: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    assert load_space(str(path)).scheduler.name == "asha"


def test_tenths_are_compared_after_the_warm_up_and_before_the_end() -> None:
    looks = [
        Look(num_trials=number, memory_mb=float(number), driver_mb=1.0, num_files=2, num_processes=3)
        for number in range(101)
    ]
    table = summary(looks, num_trials=100)
    first, last = WARM_UP + 5, 94.5  # the middle of 10 to 20, and of 90 to 99
    assert table["memory_mb"] == pytest.approx({"first": first, "last": last, "ratio": last / first})
    assert table["num_files"] == {"first": 2, "last": 2, "ratio": 1}
