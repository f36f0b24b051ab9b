"""What the doctor finds on a cluster whose nodes differ, and the plan that is made for it."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sweeps.chain
from sweeps.home import Home
from sweeps.node_probe import SharedFile, home, keeps_locks
from sweeps.nodes import Look, shared_home
from sweeps.placement import Node
from tests.end_to_end.machine import BIN, SPACE, Machine, RayHead, nodes

NEEDS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="a node with a disk of its own takes root")

# A node whose disk, code and limits are not the head's.
STRANGE_NODE = """
mount -t tmpfs none {private} && mount --bind {other} {module} && ulimit -n 2048 &&
exec {bin}/ray start --address={address} --num-cpus=2 --object-store-memory=80000000 --block
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`shared` is one folder on all nodes, `private` is not; `other.py` is another version of a module."""
    root = tmp_path_factory.mktemp("nodes")
    (root / "shared").mkdir()
    (root / "private").mkdir()
    (root / "other.py").touch()
    return root


@pytest.fixture(scope="module")
def two_nodes(folders: Path) -> Iterator[RayHead]:
    with nodes({"num_cpus": 1}) as cluster:
        script = STRANGE_NODE.format(
            private=folders / "private",
            other=folders / "other.py",
            module=sweeps.chain.__file__,
            bin=BIN,
            address=cluster.ray.address,
        )
        node = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | cluster.ray.environment,
            start_new_session=True,
        )
        assert node.stdout is not None
        assert any("Ray runtime started" in line for line in node.stdout)
        yield cluster.ray
        node.terminate()
        node.communicate(timeout=60)


def findings(machine: Machine, *, code: int) -> dict[str, dict[str, Any]]:
    done = machine.run("doctor", "--json")
    assert done.returncode == code, done.stderr
    return {check["name"]: check for check in json.loads(done.stdout)}


@pytest.mark.slow
def test_a_machine_of_its_own_has_nothing_wrong(machine: Machine) -> None:
    done = machine.run("doctor")
    assert done.returncode == 0, done.stdout
    assert {line.split()[0] for line in done.stdout.splitlines()} <= {"ok", "note"}
    assert "shared home    " in done.stdout
    assert "mlflow.db answers" in done.stdout


@NEEDS_ROOT
@pytest.mark.slow
def test_a_node_that_differs_is_named_with_what_mends_it(folders: Path, two_nodes: RayHead) -> None:
    on_shared = findings(Machine(home=folders / "shared" / "home", ray=two_nodes), code=3)
    wrong = {name for name, check in on_shared.items() if not check["ok"]}
    assert wrong == {"versions", "open files"}
    assert "seen and written by all 2 nodes" in on_shared["shared home"]["finding"]
    assert "face-distillation-sweeps is" in on_shared["versions"]["finding"]
    assert on_shared["versions"]["finding"].endswith(": install there what the driver has")
    assert "may open 2048 files: run `ulimit -n 65536`" in on_shared["open files"]["finding"]
    assert on_shared["State API"]["finding"] == "tells of 2 nodes"
    assert on_shared["nodes"]["finding"] == "2 of 2 answer"
    assert "none is sent" in on_shared["token"]["finding"]
    assert not (folders / "shared" / "home").exists()

    on_private = findings(Machine(home=folders / "private", ray=two_nodes), code=3)
    check = on_private["shared home"]
    assert not check["ok"]
    assert f"the home {folders}/private is not shared by all nodes (on " in check["finding"]
    assert "it is not there, or is a folder of the node's own" in check["finding"]
    assert list((folders / "private").iterdir()) == []


@NEEDS_ROOT
@pytest.mark.slow
def test_a_plan_is_made_for_the_nodes_of_the_cluster(folders: Path, two_nodes: RayHead) -> None:
    machine = Machine(home=folders / "shared" / "home", ray=two_nodes)
    done = machine.run("validate", str(SPACE), "--json", "--set", "resources.max_concurrent=auto")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["placement"]["trials"] == 3
    assert sorted(plan["placement"]["workers"].values()) == [1, 2]
    refused = machine.run("validate", str(SPACE), "--set", "resources.cpus_per_worker=3")
    assert refused.returncode == 3
    assert "a worker takes 3 CPU and the biggest node, " in refused.stderr
    assert "has 2 CPU: lower resources.cpus_per_worker" in refused.stderr


@pytest.fixture
def shared(tmp_path: Path) -> SharedFile:
    (tmp_path / "seen").write_text("content")
    return SharedFile(path=str(tmp_path / "seen"), content="content")


def test_a_node_answers_beside_the_file_that_it_sees(shared: SharedFile) -> None:
    assert home("n", shared) is None
    assert Path(shared.answer("n")).read_text() == "content"
    assert home("n", replace(shared, content="other")) == "holds another file"
    assert home("n", replace(shared, path=f"{shared.path}-none")) == (
        "is not there, or is a folder of the node's own"
    )


def test_a_lock_that_nobody_holds_is_not_taken_for_one(shared: SharedFile) -> None:
    assert not keeps_locks(shared)


def look(**changes: Any) -> Look:
    return replace(
        Look(
            node=Node(name="a", resources={}),
            seen={"home": None, "time": 100.0},
            asked=100.0,
            answered=103.0,
            wrote=True,
        ),
        **changes,
    )


@pytest.mark.parametrize(("read", "off"), [(101.0, 0.0), (103.0, 0.0), (90.0, 10.0), (123.0, 20.0)])
def test_a_clock_is_off_by_what_question_and_answer_cannot_explain(read: float, off: float) -> None:
    assert look(seen={"time": read}).seconds_off == off


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seen": None}, "on a it is unknown: the node does not answer"),
        ({"wrote": False}, "on a it is a folder of the node's own"),
        (
            {"seen": {"home": "cannot be used (Permission denied)"}},
            "on a it cannot be used (Permission denied)",
        ),
    ],
)
def test_a_home_is_shared_when_both_see_what_the_other_wrote(
    changes: dict[str, Any], reason: str, machine: Machine
) -> None:
    place = Home.at(str(machine.home))
    assert shared_home(place, [look()]).ok
    check = shared_home(place, [look(), look(**changes)])
    assert not check.ok
    assert f"({reason})" in check.finding


@NEEDS_ROOT
@pytest.mark.slow
def test_a_sweep_is_refused_before_it_starts_where_a_node_lacks_its_home(
    folders: Path, two_nodes: RayHead
) -> None:
    machine = Machine(home=folders / "private" / "home", ray=two_nodes)
    refused = machine.run("run", str(SPACE))
    assert refused.returncode == 3
    assert "private/home is not shared by all nodes" in refused.stderr
    assert list((folders / "private").iterdir()) == []
