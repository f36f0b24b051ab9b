"""What every test begins with."""

import os
import sys
from collections.abc import Iterator

import pytest

TRACKER = "MLFLOW_TRACKING_URI"
"""MLflow's `set_tracking_uri` sets it in this process: what begins later, other processes too, would take it
for the user's."""


@pytest.fixture(scope="module", autouse=True)
def _no_tracker_left_by_other_modules() -> Iterator[None]:
    os.environ.pop(TRACKER, None)
    yield
    os.environ.pop(TRACKER, None)


@pytest.fixture(scope="module", autouse=True)
def _no_code_of_models_left_by_other_modules() -> Iterator[None]:
    """MLflow puts a loaded model's own code first in the path, where processes that are spawned later find
    that part of `distill` for all of it."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(autouse=True)
def _no_tracker_left_by_other_tests() -> Iterator[None]:
    before = os.environ.get(TRACKER)
    yield
    if before is None:
        os.environ.pop(TRACKER, None)
    else:
        os.environ[TRACKER] = before
