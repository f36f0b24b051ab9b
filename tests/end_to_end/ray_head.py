"""A Ray cluster for tests that need not start their own: prints its address, ends with standard input."""

import logging
import shutil
import sys
import tempfile

from sweeps import cluster  # first: it sets what Ray reads when it is imported

# isort: split
import ray

assert cluster
folder = tempfile.mkdtemp(prefix="tests-", dir="/tmp")
ray.init(
    address="local",
    include_dashboard=True,
    log_to_driver=False,
    logging_level=logging.ERROR,
    _temp_dir=folder,
)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
shutil.rmtree(folder, ignore_errors=True)
