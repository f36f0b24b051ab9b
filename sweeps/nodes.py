"""Checks of every node of the connected cluster: what differs from node to node, or is short on one.

A task that is pinned to the node looks around there; all nodes are asked at once.
"""

import fcntl
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distill.errors import RefusedError
from sweeps import node_probe
from sweeps.checks import Check, size
from sweeps.home import Home
from sweeps.node_probe import SharedFile
from sweeps.placement import Node

ANSWER_S = 60
"""How long a node may take to answer: it may have to start a process first."""
CLOCKS_APART_S = 5.0
OPEN_FILES = 4096
"""Ray's own processes take hundreds, and thousands where many trials run."""
FULL = 0.95
"""Share of the disk under its files at which Ray makes no more objects."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a node says.

    Attributes:
        seen: What `node_probe.look` found; None when the node did not answer.
        asked: When it was asked, by the driver's clock.
        answered: When its answer was there.
        wrote: Whether the driver found what it wrote.
    """

    node: Node
    seen: Mapping[str, Any] | None
    asked: float
    answered: float
    wrote: bool

    @property
    def home(self) -> str | None:
        """Why the home is not shared with this node; None when it is."""
        if self.seen is None:
            return "is unknown: the node does not answer"
        return self.seen["home"] or (None if self.wrote else "is a folder of the node's own")

    @property
    def seconds_off(self) -> float:
        """How far its clock is off the driver's, at least: it was read between question and answer."""
        assert self.seen is not None
        read: float = self.seen["time"]
        return max(0.0, self.asked - read, read - self.answered)


def check_nodes(home: Home, nodes: Sequence[Node]) -> list[Check]:
    """Checks all that `sweeps doctor` looks at on nodes.

    Raises:
        RefusedError: If the driver itself cannot write to the home.
    """
    looks = look_around(home, nodes)
    own = node_probe.versions()
    silent = [look.node.name for look in looks if look.seen is None]
    awake = [look for look in looks if look.seen is not None]
    return [
        Check(
            name="nodes",
            ok=not silent,
            finding=f"{', '.join(silent)} did not answer within {ANSWER_S} s: look at its raylet's log"
            if silent
            else f"{len(nodes)} of {len(nodes)} answer",
        ),
        shared_home(home, looks),
        _each(
            "locks",
            awake,
            lambda look: not look["lock"] and look["home"] is None,
            lambda _: "a lock of the driver's is none",
            mend="drive a study from one machine only, or mount the home without `nolock` and `local_lock`",
            well="a study's lock holds on all nodes",
            note=True,
        ),
        _each(
            "versions",
            awake,
            lambda look: look["versions"] != own,
            lambda look: _differences(look["versions"], own),
            mend="install there what the driver has",
            well=f"{', '.join(f'{name} {found}' for name, found in own.items())} on all nodes",
        ),
        _clocks(awake),
        *_limits(awake),
    ]


def check_shared_home(home: Home, nodes: Sequence[Node]) -> Check:
    """Whether every node sees the home and can write there, before anything of a sweep is written.

    A cluster of one node is the driver's: it is not asked.

    Raises:
        RefusedError: If the driver itself cannot write to the home.
    """
    if len(nodes) == 1 and home.store is None:
        return Check(name="shared home", ok=True, finding=f"{home.root} is on the cluster's only node")
    return shared_home(home, look_around(home, nodes))


def shared_home(home: Home, looks: Sequence[Look]) -> Check:
    """What the nodes say of the home."""
    if lacking := [look for look in looks if look.home is not None]:
        where = "; ".join(f"on {look.node.name} it {look.home}" for look in lacking)
        return Check(
            name="shared home",
            ok=False,
            finding=f"the home {home.address} is not shared by all nodes ({where}): with --home name a "
            "folder of a filesystem that every node mounts at the same path, or a store that all can use, "
            "or leave such nodes out of the cluster",
        )
    return Check(
        name="shared home", ok=True, finding=f"{home.address} is seen and written by all {len(looks)} nodes"
    )


def look_around(home: Home, nodes: Sequence[Node]) -> list[Look]:
    """Has every node look around, and leaves nothing behind.

    Raises:
        RefusedError: If the driver itself cannot write to the home.
    """
    cloudpickle.register_pickle_by_value(node_probe)
    try:
        task = ray.remote(node_probe.look)
        with _shared_file(home) as shared:
            asked = time.time()
            answers = [task.options(**_pinned(node)).remote(node.id, shared) for node in nodes]
            return [
                _await(node, answer, shared=shared, asked=asked)
                for node, answer in zip(nodes, answers, strict=True)
            ]
    finally:
        cloudpickle.unregister_pickle_by_value(node_probe)


def _pinned(node: Node) -> dict[str, Any]:
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": strategy}


def _await(node: Node, answer: ray.ObjectRef, *, shared: SharedFile, asked: float) -> Look:
    try:
        seen = ray.get(answer, timeout=max(0.0, asked + ANSWER_S - time.time()))
    except (RayError, GetTimeoutError):
        seen = None
    answered = time.time()
    if seen is not None:
        seen |= {"resources": node.resources}
    return Look(node=node, seen=seen, asked=asked, answered=answered, wrote=_is_there(shared.answer(node.id)))


def _is_there(path: str) -> bool:
    try:
        return bool(node_probe.read(path))
    except OSError:
        return False


@contextmanager
def _shared_file(home: Home) -> Iterator[SharedFile]:
    """A file under the home that this process holds a lock of, for as long as the nodes look at it."""
    if (depot := home.depot) is not None:
        seen = home.root / f".seen-{secrets.token_hex(8)}"
        shared = SharedFile(path=f"{depot.uri_of(seen)}/asked", content=secrets.token_hex(32))
        try:
            node_probe.write(shared.path, shared.content)
            yield shared
        except OSError as error:
            raise RefusedError(f"the home {home.address} cannot be written: {error}") from None
        finally:
            depot.clear(seen)
        return
    home.check_writable()
    made = [path for path in (home.root, *home.root.parents) if not path.exists()]
    home.root.mkdir(parents=True, exist_ok=True)
    shared = SharedFile(path=str(home.root / f".seen-{secrets.token_hex(8)}"), content=secrets.token_hex(32))
    try:
        with Path(shared.path).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(shared.content)
            file.flush()
            yield shared
    finally:
        for left in home.root.glob(f"{Path(shared.path).name}*"):
            left.unlink()
        for folder in made:
            folder.rmdir()


def _each(
    name: str,
    looks: Sequence[Look],
    is_wrong: Callable[[Any], bool],
    says: Callable[[Any], str],
    *,
    mend: str,
    well: str,
    note: bool = False,
) -> Check:
    """One check over all nodes, which names those where it fails and what mends it."""
    wrong = [f"on {look.node.name} {says(look.seen)}" for look in looks if is_wrong(look.seen)]
    finding = f"{'; '.join(wrong)}: {mend}" if wrong else well
    return Check(name=name, ok=note or not wrong, note=note and bool(wrong), finding=finding)


def _clocks(looks: Sequence[Look]) -> Check:
    wrong = [
        f"on {look.node.name} by {look.seconds_off:.0f} s"
        for look in looks
        if look.seconds_off > CLOCKS_APART_S
    ]
    return Check(
        name="clocks",
        ok=not wrong,
        finding=f"the clock is off the driver's {'; '.join(wrong)}: run an NTP service there"
        if wrong
        else f"within {CLOCKS_APART_S:.0f} s of the driver's",
    )


def _limits(looks: Sequence[Look]) -> Iterator[Check]:
    yield _each(
        "open files",
        looks,
        lambda look: look["files"] < OPEN_FILES,
        lambda look: f"a process may open {look['files']} files",
        mend=f"run `ulimit -n 65536` before `ray start` (at least {OPEN_FILES})",
        well=f"{_least(looks, lambda look: look['files']):,} or more a process",
    )
    yield _each(
        "shared memory",
        looks,
        lambda look: look["shm"] < look["resources"].get("object_store_memory", 0),
        lambda look: f"/dev/shm has {size(look['shm'])}, less than Ray's object store",
        mend="give the container more (`--shm-size`), or Ray less (`ray start --object-store-memory`)",
        well="holds Ray's object store on all nodes",
        note=True,
    )
    yield _each(
        "Ray's disk",
        looks,
        lambda look: look["temp"][1] < (1 - FULL) * look["temp"][2],
        lambda look: f"{look['temp'][0]} has {size(look['temp'][1])} free",
        mend=f"make room, or move it with `ray start --temp-dir`: Ray stops at {FULL:.0%} full",
        well=f"{size(_least(looks, lambda look: look['temp'][1]))} or more free under Ray's temporary files",
    )
    yield _each(
        "CPUs",
        looks,
        lambda look: max(look["resources"].get("CPU", 0), look["omp"]) > look["cpus"],
        lambda look: (
            f"there are {look['cpus']} CPUs for {look['resources'].get('CPU', 0):g} that Ray offers, "
            f"and OMP_NUM_THREADS is {look['omp']}"
        ),
        mend="threads will take turns; lower `ray start --num-cpus` or OMP_NUM_THREADS there",
        well="no node offers more than it has",
        note=True,
    )


def _least(looks: Sequence[Look], of: Callable[[Any], int]) -> int:
    return min((of(look.seen) for look in looks), default=0)


def _differences(found: Mapping[str, str], own: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} is {found[name]} and the driver's {own[name]}" for name in own if found[name] != own[name]
    )
