"""The Ray cluster under a sweep: reaching it, and checking beforehand what would otherwise hang."""

import importlib.util
import json
import logging
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Read by Ray when it is imported or started, in this process and in those that it starts.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the ledger records; CSV and JSON would too
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is the sweep's
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")  # a sweep is resumed from its study
# How many trials may wait for their actors to start. As Ray has it that is one: the actors of a wide cluster
# would start one after the other. A sweep draws no more points than there is room for.
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "1000")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "120")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default
# Each trial in place has a thread of its own, and glibc would keep an arena of memory for every one. What is
# freed in the one that is left is kept for the next step: see `distill.training.memory`.
os.environ.setdefault("MALLOC_ARENA_MAX", "1")

import ray
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray.exceptions import AuthenticationError
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException

from distill.errors import RefusedError
from sweeps.checks import Check
from sweeps.guard import guarded_folder
from sweeps.home import Home
from sweeps.placement import Node, place, refusal
from sweeps.space import ResourcesSettings

REACH_TIMEOUT_S = 10
TOKEN_ADVICE = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to what the head has in "
    "~/.ray/auth_token"
)
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
        except AuthenticationError:
            raise RefusedError(f"the Ray cluster at {address} wants its token: {TOKEN_ADVICE}") from None
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RefusedError(f"no Ray cluster answers at {address}: {_one_line(error)}") from None
        try:
            yield context.dashboard_url or ""
        finally:
            ray.shutdown()
        return
    with guarded_folder() as folder:
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
                    f"Ray did not start on this machine, which may have too much to do: {_one_line(error)}"
                ) from None
            yield context.dashboard_url or ""
        finally:
            ray.shutdown()


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
    """What a cluster has that is started on this machine: what Ray finds, within its cgroup's limits."""
    found = ResourceAndLabelSpec().resolve(is_head=True).to_resource_dict()
    return {name: float(amount or 0) for name, amount in found.items()}


def own_nodes() -> list[Node]:
    """The node of a cluster that is started on this machine."""
    return [Node(name="this machine", resources=own_resources())]


def nodes() -> list[Node]:
    """The living nodes of the connected cluster, those with the most CPUs first."""
    living = [node for node in ray.nodes() if node["Alive"]]
    addresses = [node["NodeManagerAddress"] for node in living]
    found = [
        Node(
            # Several nodes of one address run on one machine.
            name=address if addresses.count(address) == 1 else f"{address} ({node['NodeID'][:6]})",
            id=node["NodeID"],
            resources=node["Resources"],
        )
        for node, address in zip(living, addresses, strict=True)
    ]
    return sorted(found, key=lambda node: -node.resources.get("CPU", 0.0))


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
    return Check(name="home", ok=True, finding=f"{home.address} can be written")


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
            finding=f"the dashboard http://{url} does not answer ({_one_line(error)}): "
            "start the cluster with `ray start --head --include-dashboard=true`",
        )
    return Check(name="dashboard", ok=True, finding=f"http://{url} answers")


def check_state_api(url: str) -> Check:
    """Whether the connected cluster's State API tells of its nodes; Ray Train asks it who still lives."""
    try:
        found = list_nodes(address=f"http://{url}", timeout=REACH_TIMEOUT_S)
    except (RayStateApiException, OSError, ValueError) as error:
        return Check(
            name="State API",
            ok=False,
            finding=f"it does not answer at http://{url} ({_one_line(error)}): start the head with "
            "`ray[default]` installed",
        )
    return Check(name="State API", ok=True, finding=f"tells of {len(found)} nodes")


def check_token(address: str | None) -> Check:
    """Whether this process has a token, and whether a cluster at `address` would ask for one."""
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    source = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(file) if file.exists() else None
    if mode == "token" and source is None and address is not None:
        return Check(
            name="token", ok=False, finding=f"RAY_AUTH_MODE is token and there is none: {TOKEN_ADVICE}"
        )
    if address is None and mode != "disabled":
        return Check(name="token", ok=True, finding="a cluster of its own asks for a token that Ray makes")
    if mode == "token":
        return Check(name="token", ok=True, finding=f"the token of {source} is sent")
    return Check(
        name="token",
        ok=True,
        note=True,
        finding="none is sent, and a cluster that takes this runs the code of whoever reaches it: "
        "`ray get-auth-token --generate`, and RAY_AUTH_MODE=token on all nodes",
    )


def check_resources(resources: ResourcesSettings, nodes: Sequence[Node]) -> Check:
    """Whether one trial fits on these nodes."""
    if (reason := refusal(resources, nodes)) is not None:
        return Check(name="resources", ok=False, finding=reason)
    placement = place(resources, nodes)
    trials = "1 trial" if placement.trials == 1 else f"{placement.trials} trials"
    return Check(name="resources", ok=True, finding=f"{trials} at once: {placement}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
