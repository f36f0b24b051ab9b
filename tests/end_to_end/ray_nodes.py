"""A Ray cluster of several nodes on this machine: prints its address, ends with standard input.

Takes one JSON list: what `ray start` would be told of each node, the head first, such as
`[{"num_cpus": 1}, {"num_cpus": 2, "resources": {"fast_disk": 1}}]`. Each has a raylet of its own; all share
the machine's address, disk and clock. A line of JSON on standard input adds a node, a number ends one.
"""

import json
import os
import shutil
import sys
import tempfile

from sweeps import cluster  # first: it sets what Ray reads when it is imported

# isort: split
from ray._private import utils
from ray.cluster_utils import Cluster

assert cluster
# Ray would write the address where every Ray program of this machine looks for a cluster to join.
utils.write_ray_address = lambda *_: None
folder = tempfile.mkdtemp(prefix="tests-", dir="/tmp")
os.environ["RAY_TMPDIR"] = folder  # where nodes beside the head have theirs
head, *others = json.loads(sys.argv[1])
MEMORY = {"object_store_memory": 80 * 2**20}
own = Cluster(
    initialize_head=True,
    head_node_args={**MEMORY, "include_dashboard": True, "dashboard_port": 0, "temp_dir": folder, **head},
)
nodes = [own.add_node(**MEMORY, **node) for node in others]
print(own.address, flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if isinstance(asked, dict):
        nodes.append(own.add_node(**MEMORY, **asked))
    else:
        own.remove_node(nodes[asked], allow_graceful=False)
    print(len(own.worker_nodes), flush=True)
own.shutdown()
shutil.rmtree(folder, ignore_errors=True)
