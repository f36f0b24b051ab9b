"""Which trials fit on a cluster at once, node by node.

A worker fits on one node or not at all, whatever the nodes have together. Plain data comes in and goes out,
so that a sweep can ask again whenever nodes have joined or left.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sweeps.space import ResourcesSettings
from sweeps.trial import COORDINATOR

UNITS = 10_000
"""Ray counts resources in ten-thousandths."""
_SETTINGS = {
    "CPU": "resources.cpus_per_worker",
    "GPU": "resources.gpus_per_worker",
    "memory": "resources.memory_gb_per_worker",
}


@dataclass(frozen=True, kw_only=True)
class Node:
    """A living node of a cluster.

    Attributes:
        name: As people tell it from others.
        id: As Ray does.
        resources: What it has in all, by Ray's names; memory in bytes.
    """

    name: str
    id: str = ""
    resources: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Trials that run at once.

    Attributes:
        trials: How many; 0 when not even one fits.
        workers: How many workers each node holds then, by its name; those that hold none are left out.
    """

    trials: int
    workers: Mapping[str, int]

    def __str__(self) -> str:
        return ", ".join(f"{count} on {name}" for name, count in self.workers.items())


def max_concurrent(resources: ResourcesSettings, nodes: Sequence[Node]) -> int:
    """How many trials fit at once on these nodes, at most as many as are asked for; 0 when not one does."""
    return place(resources, nodes).trials


def place(resources: ResourcesSettings, nodes: Sequence[Node]) -> Placement:
    """Packs whole trials onto nodes, each node filled before the next.

    Workers are all alike, so no other order packs more of them. The process that coordinates the workers of a
    trial may come to lie on any node: what all of them take is left free on each.
    """
    trials = sum(_room(node, resources) for node in nodes) // resources.workers_per_trial
    if resources.max_concurrent != "auto":
        trials = min(trials, resources.max_concurrent)
    if not resources.in_place:
        while (
            trials and sum(_room(n, resources, trials) for n in nodes) < trials * resources.workers_per_trial
        ):
            trials -= 1
    return Placement(trials=trials, workers=dict(_fill(trials, resources, nodes)))


def refusal(resources: ResourcesSettings, nodes: Sequence[Node]) -> str | None:
    """Why not one trial can ever be placed on these nodes, and which setting to lower; None when one can."""
    if place(resources, nodes).trials:
        return None
    if not nodes:
        return "the cluster has no living node: start one with `ray start`"
    for name, amount in resources.per_worker().items():
        biggest = max(nodes, key=lambda node: node.resources.get(name, 0.0))
        if _count(biggest, name, amount) < 1:
            has = amount_text(name, biggest.resources.get(name, 0.0))
            return (
                f"a worker takes {amount_text(name, amount)} and the biggest node, {biggest.name}, "
                f"has {has}: lower {_setting(name)}"
            )
    room = {node.name: _room(node, resources, 1) for node in nodes}
    if not any(_room(node, resources) for node in nodes):
        worker = " and ".join(amount_text(name, amount) for name, amount in resources.per_worker().items())
        settings = " or ".join(map(_setting, resources.per_worker()))
        return f"a worker takes {worker}, which no node has together: lower {settings}"
    held = ", ".join(f"{count} on {name}" for name, count in room.items() if count) or "none"
    beside, also = "", ""
    if sum(_room(node, resources) for node in nodes) >= resources.workers_per_trial:
        beside, also = " and a byte of memory beside them", f" or {_setting('memory')}"
    return (
        f"a trial takes {resources.workers_per_trial} workers{beside}, and the cluster holds "
        f"{sum(room.values())} ({held}): lower resources.workers_per_trial{also}"
    )


def amount_text(name: str, amount: float) -> str:
    """An amount of a resource, as people read it: `2 CPU`, `3.5 GiB of memory`."""
    return f"{amount / 2**30:.4g} GiB of memory" if name == "memory" else f"{amount:g} {name}"


def _fill(trials: int, resources: ResourcesSettings, nodes: Sequence[Node]) -> Iterator[tuple[str, int]]:
    left = trials * resources.workers_per_trial
    for node in nodes:
        if taken := min(left, _room(node, resources, trials)):
            left -= taken
            yield node.name, taken


def _room(node: Node, resources: ResourcesSettings, trials: int = 0) -> int:
    """How many workers fit on a node beside what coordinates so many trials."""
    coordinators = {} if resources.in_place else COORDINATOR
    return min(
        _count(node, name, amount, kept=trials * _units(coordinators.get(name, 0.0)))
        for name, amount in resources.per_worker().items()
    )


def _count(node: Node, name: str, amount: float, *, kept: int = 0) -> int:
    """How many times a node has an amount of a resource, of which some units are kept free."""
    has, takes = max(0, _units(node.resources.get(name, 0.0)) - kept), max(1, _units(amount))
    if name == "GPU" and takes < UNITS:  # what is left of one GPU and of another make no share of a GPU
        return has // UNITS * (UNITS // takes)
    return has // takes


def _units(amount: float) -> int:
    return round(amount * UNITS)


def _setting(name: str) -> str:
    return _SETTINGS.get(name, f"resources.custom_per_worker.{name}")
