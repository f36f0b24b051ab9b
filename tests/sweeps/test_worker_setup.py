"""What a training sees of the machine that it runs on, and where it speaks to others."""

import json
import subprocess
import sys
from typing import Any

import psutil
import pytest

# In a process of its own: Ray says once for each what it has.
SEEN = """
import json
import os
import ray
from sweeps.worker_setup import see_own_gpus_only, speak_over_ray_network

@ray.remote
def seen():
    see_own_gpus_only()
    speak_over_ray_network()
    return {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "GLOO_SOCKET_IFNAME")}

ray.init(address="local", num_cpus=1, num_gpus=2, include_dashboard=False, log_to_driver=False)
given = [seen.options(num_gpus=count) for count in (0, 1, 2)]
print(json.dumps([*(ray.get(task.remote()) for task in given), ray.util.get_node_ip_address()]))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen() -> list[Any]:
    done = subprocess.run([sys.executable, "-c", SEEN], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_training_sees_the_gpus_that_it_was_given_and_no_other(seen: list[Any]) -> None:
    none, one, both = (process["CUDA_VISIBLE_DEVICES"] for process in seen[:3])
    assert none == ""
    assert one in ("0", "1")
    assert both in ("0,1", "1,0")


def test_workers_speak_over_the_network_of_rays_address(seen: list[Any]) -> None:
    interface, address = seen[0]["GLOO_SOCKET_IFNAME"], seen[3]
    assert address in [known.address for known in psutil.net_if_addrs()[interface]]
