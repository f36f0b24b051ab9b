"""What a training frees stays with its process."""

import os
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from distill.training.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
pages = 0
for step in range(20):
    if step == 10:
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.zeros(2**22) for _ in range(4)]  # 16 MiB each
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - pages)
"""


GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""What glibc begins with. From there it adapts itself to what a process does, more or less."""


def _new_pages(how: str) -> int:
    """How many pages the system made for ten steps of 64 MiB, 16,384 pages each."""
    ended = subprocess.run(
        [sys.executable, "-c", STEPS, how],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **GIVES_BACK},
    )
    return int(ended.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told what to keep")
def test_a_step_gets_the_memory_that_the_one_before_it_freed() -> None:
    assert _new_pages("left alone") > 50_000
    assert _new_pages("kept") < 2_000
