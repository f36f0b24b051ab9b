"""The Ray cluster under a sweep: reaching it, and checking beforehand what would otherwise hang."""

import importlib.util
import json
import logging
import os
import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# Read by Ray when it is imported or started, in this process and in those that it starts.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the ledger records; CSV and JSON would too
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is the sweep's
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")  # a sweep is resumed from its study
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "120")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default

import ray
import torch

from distill.errors import RefusedError
from sweeps.checks import Check
from sweeps.home import Home
from sweeps.space import ResourcesSettings

REACH_TIMEOUT_S = 10
# What `ray[default]` brings and plain `ray[tune,train]` lacks. Without it the dashboard is minimal, and Ray
# cannot tell which controllers still live.
DASHBOARD_MODULES = ("aiohttp_cors", "opencensus", "prometheus_client")


@contextmanager
def connected(address: str | None) -> Iterator[str]:
    """Connects to a cluster, or starts one of its own on this machine, and leaves nothing of it behind.

    Args:
        address: Of a running cluster; None starts one.

    Yields:
        Where its dashboard is; empty when it has none.

    Raises:
        RefusedError: If no cluster answers at `address`.
    """
    if address is not None:
        _reach(address)
        try:
            context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RefusedError(f"no Ray cluster answers at {address}: {_first_line(error)}") from None
        try:
            yield context.dashboard_url or ""
        finally:
            ray.shutdown()
        return
    # A folder of its own, with a short path: Ray puts sockets there, whose paths may hold 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="sweeps-", dir="/tmp"))
    try:
        try:
            context = ray.init(
                address="local",
                include_dashboard=True,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
            )
        # Ray raises a bare Exception when one of its processes does not come up within 30 seconds.
        except Exception as error:
            raise RefusedError(
                f"Ray did not start on this machine, which may have too much to do: {_first_line(error)}"
            ) from None
        yield context.dashboard_url or ""
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _reach(address: str) -> None:
    """Tries a connection first: Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # `auto`, which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=REACH_TIMEOUT_S).close()
    except OSError as error:
        raise RefusedError(f"no Ray cluster answers at {address}: {error.strerror or error}") from None


def own_resources() -> dict[str, float]:
    """What a cluster would have that is started on this machine."""
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def max_concurrent(resources: ResourcesSettings, total: Mapping[str, float]) -> int:
    """How many trials fit at once on a cluster with these resources, 0 when not even one does.

    A trial over several workers is counted whole, so that trials never wait for each other's workers.
    """
    fits = [
        int(total.get(name, 0.0) / (amount * resources.workers_per_trial) + 1e-9)
        for name, amount in resources.per_worker().items()
        if amount > 0
    ]
    asked = resources.max_concurrent
    return min(fits) if asked == "auto" else min(asked, *fits)


def check_installation() -> Check:
    """Whether Ray can tell which of its processes still live."""
    missing = [name for name in DASHBOARD_MODULES if importlib.util.find_spec(name) is None]
    return Check(
        name="ray[default]",
        ok=not missing,
        finding=f"Ray's dashboard lacks {', '.join(missing)}: pip install 'ray[default,tune,train]'"
        if missing
        else f"Ray {ray.__version__} with its dashboard",
    )


def check_home(home: Home) -> Check:
    """Whether the home can be written."""
    try:
        home.check_writable()
    except RefusedError as error:
        return Check(name="home", ok=False, finding=str(error))
    return Check(name="home", ok=True, finding=f"{home.root} can be written")


def check_dashboard(url: str) -> Check:
    """Whether the connected cluster's dashboard, which serves the State API, answers at `url`."""
    if not url:
        return Check(
            name="dashboard",
            ok=False,
            finding="the cluster has no dashboard: start it with `ray start --head --include-dashboard=true`",
        )
    try:
        with urllib.request.urlopen(f"http://{url}/api/version", timeout=10) as answer:
            json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):  # it answers, and wants its token
            return Check(
                name="dashboard", ok=False, finding=f"the dashboard http://{url} answers {error.code}"
            )
    except (OSError, ValueError) as error:
        return Check(
            name="dashboard",
            ok=False,
            finding=f"the dashboard http://{url} does not answer ({_first_line(error)}): "
            "start the cluster with `ray start --head --include-dashboard=true`",
        )
    return Check(name="dashboard", ok=True, finding=f"http://{url} answers")


def check_resources(resources: ResourcesSettings, total: Mapping[str, float]) -> Check:
    """Whether one trial fits on a cluster with these resources."""
    fit = max_concurrent(resources, total)
    needs = ", ".join(f"{amount:g} {name}" for name, amount in resources.per_worker().items() if amount > 0)
    has = ", ".join(f"{total.get(name, 0.0):g} {name}" for name in resources.per_worker())
    if fit < 1:
        return Check(
            name="resources",
            ok=False,
            finding=f"a trial needs {resources.workers_per_trial} x ({needs}) and the cluster has {has}: "
            "lower resources.workers_per_trial or resources.cpus_per_worker",
        )
    return Check(name="resources", ok=True, finding=f"{fit} trials at once on {has}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
