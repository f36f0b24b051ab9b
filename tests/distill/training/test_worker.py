"""What a training sees of the machine that it runs on."""

import subprocess
import sys

import pytest

# In a process of its own: Ray says once for each what it has.
GPUS_SEEN = """
import os
import ray
from distill.training.worker import see_own_gpus_only

@ray.remote
def seen():
    see_own_gpus_only()
    return os.environ.get("CUDA_VISIBLE_DEVICES")

ray.init(address="local", num_cpus=1, num_gpus=2, include_dashboard=False, log_to_driver=False)
given = [seen.options(num_gpus=count) for count in (0, 1, 2)]
print(*(repr(ray.get(task.remote())) for task in given))
"""


@pytest.mark.slow
def test_a_training_sees_the_gpus_that_it_was_given_and_no_other() -> None:
    done = subprocess.run([sys.executable, "-c", GPUS_SEEN], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    none, one, both = done.stdout.split()
    assert none == "''"
    assert one in ("'0'", "'1'")
    assert both in ("'0,1'", "'1,0'")
