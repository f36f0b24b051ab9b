"""Which trials are admitted to a cluster, and what of this machine and of a token is told."""

import itertools
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from sweeps import cluster
from sweeps.placement import Node, max_concurrent, place, refusal
from sweeps.space import ResourcesSettings

GIB = 2**30


def node(name: str = "a", **resources: float) -> Node:
    return Node(name=name, resources={"memory": 64.0 * GIB, **resources})


def needs(workers: int = 1, cpus: float = 1, **settings: Any) -> ResourcesSettings:
    return ResourcesSettings(workers_per_trial=workers, cpus_per_worker=cpus, **settings)


@pytest.mark.parametrize(
    ("nodes", "resources", "trials"),
    [
        # Two nodes of three CPUs have six, and hold two workers of two.
        ([node("a", CPU=3), node("b", CPU=3)], needs(cpus=2), 2),
        ([node("a", CPU=3), node("b", CPU=3)], needs(cpus=4), 0),
        # Workers of one trial may lie on several nodes, and a trial is admitted whole.
        ([node("a", CPU=3), node("b", CPU=3)], needs(workers=2), 3),
        ([node("a", CPU=3), node("b", CPU=2)], needs(workers=2), 2),
        # A quarter of a GPU is of one GPU: three tenths of each are left over.
        ([node("a", CPU=64, GPU=2)], needs(gpus_per_worker=0.25), 8),
        ([node("a", CPU=64, GPU=2)], needs(gpus_per_worker=0.35), 4),
        ([node("a", CPU=64, GPU=3), node("b", CPU=64, GPU=3)], needs(gpus_per_worker=2), 2),
        # CPUs are not so.
        ([node("a", CPU=2)], needs(cpus=0.35), 5),
        # Tenths add up as they do on paper.
        ([node("a", CPU=1)], needs(cpus=0.1), 10),
        ([node("a", CPU=8, memory=15 * GIB)], needs(memory_gb_per_worker=4), 3),
        # The coordinator's byte is missing where four workers would take all of the memory.
        ([node("a", CPU=8, memory=16 * GIB)], needs(memory_gb_per_worker=4), 4),
        ([node("a", CPU=8, memory=16 * GIB)], needs(workers=4, memory_gb_per_worker=4), 0),
        ([node("a", CPU=8, memory=16 * GIB + 1)], needs(workers=4, memory_gb_per_worker=4), 1),
        (
            [node("a", CPU=8, memory=16 * GIB), node("b", CPU=8, memory=16 * GIB)],
            needs(workers=4, memory_gb_per_worker=4),
            1,
        ),
        ([node("a", CPU=8), node("b", CPU=8, disk=2)], needs(custom_per_worker={"disk": 1}), 2),
        # A head that offers no CPU holds nothing.
        ([Node(name="head", resources={"memory": GIB}), node("b", CPU=2)], needs(), 2),
        ([node("a", CPU=8)], needs(max_concurrent=3), 3),
        ([node("a", CPU=2)], needs(max_concurrent=3), 2),
        ([], needs(), 0),
    ],
)
def test_as_many_trials_are_admitted_as_nodes_hold(
    nodes: list[Node], resources: ResourcesSettings, trials: int
) -> None:
    assert max_concurrent(resources, nodes) == trials
    assert (refusal(resources, nodes) is None) == (trials > 0)
    placement = place(resources, nodes)
    assert sum(placement.workers.values()) == trials * resources.workers_per_trial


def test_nodes_are_filled_one_after_the_other() -> None:
    nodes = [node("big", CPU=4), node("small", CPU=1), node("spare", CPU=4)]
    assert place(needs(workers=2, max_concurrent=3), nodes).workers == {"big": 4, "small": 1, "spare": 1}


def test_more_nodes_admit_more_and_a_lost_one_fewer() -> None:
    nodes = [node("a", CPU=2), node("b", CPU=2), node("c", CPU=2)]
    assert [max_concurrent(needs(workers=3), nodes[:count]) for count in (1, 2, 3)] == [0, 1, 2]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_admitted_fits_wherever_coordinators_lie_and_one_more_would_not(seed: int) -> None:
    rng = random.Random(seed)
    workers = rng.randint(2, 4)
    per_worker = {
        "CPU": rng.choice([1.0, 1.5, 2.0]),
        "memory": float(rng.randint(1, 4)),
        **({"disk": 1.0} if rng.random() < 0.3 else {}),
    }
    nodes = [
        Node(
            name=str(place_),
            resources={
                "CPU": float(rng.randint(0, 6)),
                "memory": float(rng.randint(1, 12)),
                "disk": float(rng.randint(0, 4)),
            },
        )
        for place_ in range(rng.randint(1, 3))
    ]
    resources = ResourcesSettings(
        workers_per_trial=workers,
        cpus_per_worker=per_worker["CPU"],
        memory_gb_per_worker=per_worker["memory"] / GIB,
        custom_per_worker={"disk": 1.0} if "disk" in per_worker else {},
    )
    admitted = max_concurrent(resources, nodes)
    assert admitted == 0 or always_fits(nodes, per_worker, workers, admitted)
    assert not always_fits(nodes, per_worker, workers, admitted + 1)


def always_fits(nodes: Sequence[Node], per_worker: dict[str, float], workers: int, trials: int) -> bool:
    """Whether so many trials fit, wherever their coordinators take their bytes: all of it is tried."""
    for places in itertools.combinations_with_replacement(range(len(nodes)), trials):
        held = 0
        for index, one in enumerate(nodes):
            free = {name: Fraction(amount) for name, amount in one.resources.items()}
            free["memory"] -= places.count(index)
            if free["memory"] < 0:
                return False
            while all(free[name] >= Fraction(amount) for name, amount in per_worker.items()):
                for name, amount in per_worker.items():
                    free[name] -= Fraction(amount)
                held += 1
        if held < trials * workers:
            return False
    return True


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        (
            needs(cpus=8),
            "a worker takes 8 CPU and the biggest node, b, has 4 CPU: lower resources.cpus_per_worker",
        ),
        (
            needs(gpus_per_worker=1),
            "a worker takes 1 GPU and the biggest node, a, has 0 GPU: lower resources.gpus_per_worker",
        ),
        (
            needs(memory_gb_per_worker=100),
            "a worker takes 100 GiB of memory and the biggest node, a, has 64 GiB of memory: lower "
            "resources.memory_gb_per_worker",
        ),
        (
            needs(cpus=4, custom_per_worker={"disk": 1}),
            "a worker takes 4 CPU and 1 disk, which no node has together: lower resources.cpus_per_worker or "
            "resources.custom_per_worker.disk",
        ),
        (
            needs(workers=4, cpus=2),
            "a trial takes 4 workers, and the cluster holds 3 (1 on a, 2 on b): lower "
            "resources.workers_per_trial",
        ),
    ],
)
def test_what_can_never_be_placed_is_told_with_what_to_lower(
    resources: ResourcesSettings, reason: str
) -> None:
    nodes = [node("a", CPU=2, disk=1), node("b", CPU=4)]
    assert refusal(resources, nodes) == reason
    check = cluster.check_resources(resources, nodes)
    assert (check.ok, check.finding) == (False, reason)


def test_a_refusal_counts_the_coordinators_byte() -> None:
    reason = refusal(needs(workers=4, memory_gb_per_worker=4), [node("a", CPU=8, memory=16 * GIB)])
    assert reason == (
        "a trial takes 4 workers and a byte of memory beside them, and the cluster holds 3 (3 on a): lower "
        "resources.workers_per_trial or resources.memory_gb_per_worker"
    )


def test_this_machine_has_what_ray_would_find() -> None:
    from ray._private.utils import get_num_cpus

    found = cluster.own_resources()
    assert found["CPU"] == get_num_cpus()
    assert 0 < found["memory"] + found["object_store_memory"] < 2**50
    assert refusal(needs(cpus=1, memory_gb_per_worker=0.1), cluster.own_nodes()) is None


@pytest.mark.parametrize(
    ("environment", "address", "ok", "note", "finding"),
    [
        ({}, None, True, False, "a cluster of its own asks for a token that Ray makes"),
        ({}, "head:6379", True, True, "none is sent"),
        ({"RAY_AUTH_MODE": "disabled"}, None, True, True, "none is sent"),
        ({"RAY_AUTH_MODE": "token"}, "head:6379", False, False, "RAY_AUTH_MODE is token and there is none"),
        (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret"},
            "head:6379",
            True,
            False,
            "the token of RAY_AUTH_TOKEN is sent",
        ),
    ],
)
def test_a_token_is_looked_for_where_ray_looks(
    environment: dict[str, str],
    address: str | None,
    ok: bool,
    note: bool,
    finding: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    check = cluster.check_token(address)
    assert (check.ok, check.note) == (ok, note)
    assert check.finding.startswith(finding)
    assert "secret" not in check.finding


def test_a_token_in_the_users_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    assert cluster.check_token("head:6379").finding == f"the token of {tmp_path}/.ray/auth_token is sent"
