"""Sweeps on three machines, from a fourth: submitted, watched, stopped, resumed, and one machine lost."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.machine import BIN, SPACE, wait_for
from tests.end_to_end.mlflow_server import LIGHT
from tests.end_to_end.object_store import ObjectStore, copies_removed
from tests.end_to_end.postgresql import running_postgresql
from tests.end_to_end.three_nodes import LAPTOP, SHARED, ThreeNodes, a_worker, network, why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

TRACKER = f"http://{LAPTOP}:5000"
STORE = ObjectStore(address=LAPTOP, port=5001)
PLAIN = ("--set", "scheduler.name=none", "--set", "promotion.automatic=false")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeNodes]:
    """Three nodes, MLflow's server and PostgreSQL. Checkpoints live in the folder that the nodes share."""
    folder = tmp_path_factory.mktemp("cluster")
    with (
        network(folder) as cluster,
        running_postgresql(address=LAPTOP, within=cluster.within) as database,
        copies_removed(),
    ):
        cluster.known.update(SWEEPS_STORAGE=database.url(), **LIGHT, **STORE.environment)
        cluster.serve(STORE.server)
        cluster.serve(
            [
                *(str(BIN / "mlflow"), "server", "--host", LAPTOP, "--port", "5000", "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{folder / 'tracker.db'}"),
                *("--artifacts-destination", str(folder / "artifacts")),
            ]
        )
        cluster.start(SWEEPS_HOME=str(SHARED / "runs"), MLFLOW_TRACKING_URI=TRACKER, **cluster.known)
        assert wait_for(lambda: cluster.answers(f"{TRACKER}/health"), timeout=120)
        yield cluster


def leaderboard(cluster: ThreeNodes, study: str) -> list[dict[str, Any]]:
    done = cluster.sweeps("leaderboard", study, "--format", "json", "--home", str(cluster.shared / "runs"))
    assert done.returncode == 0, done.stderr
    assert not (cluster.shared / "runs" / "optuna.db").exists()
    return json.loads(done.stdout)["trials"]


def standing(cluster: ThreeNodes, study: str) -> dict[str, Any]:
    done = cluster.sweeps("status", study, "--address", cluster.dashboard, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_job_is_watched_stopped_and_resumed_from_elsewhere(cluster: ThreeNodes) -> None:
    at = ("--address", cluster.dashboard)
    # The second trial must still run when it is stopped, some commands after the first has ended.
    longer = ("--set", "training.epochs=20")
    sent = cluster.sweeps(
        "submit", str(SPACE), "--name", "stopped", "--trials", "2", *PLAIN, *longer, "--no-follow", *at
    )
    assert sent.returncode == 0, sent.stderr
    assert "job stopped.1 of study stopped" in sent.stdout
    twice = cluster.sweeps("submit", str(SPACE), "--name", "stopped", *at)
    assert twice.returncode == 3
    assert "is being driven by job stopped.1: stop it first with `sweeps stop stopped" in twice.stderr

    def log() -> str:
        return cluster.sweeps("logs", "stopped", *at).stdout

    assert wait_for(lambda: "1/2 done" in log(), timeout=200), log()
    now = standing(cluster, "stopped")
    assert (now["state"], now["trials"], now["best_trial"]) == ("RUNNING", "1/2", 0)
    stopped = cluster.sweeps("stop", "stopped", *at)
    assert stopped.returncode == 0, stopped.stderr
    assert f"sweeps submit --resume stopped --address {cluster.dashboard}" in stopped.stdout
    assert standing(cluster, "stopped")["state"] == "STOPPED"
    assert "stopped before its end" in log()
    states = [trial["state"] for trial in leaderboard(cluster, "stopped")]
    assert sorted(states) == ["complete", "interrupted"]

    resumed = cluster.sweeps("submit", "--resume", "stopped", *at)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "won with validation/verification_accuracy" in resumed.stdout
    states = [trial["state"] for trial in leaderboard(cluster, "stopped")]
    assert sorted(states) == ["complete", "complete", "interrupted"]
    last = standing(cluster, "stopped")
    assert (last["job"], last["state"], last["trials"], last["exit_code"]) == (
        "stopped.2",
        "SUCCEEDED",
        "2/2",
        0,
    )


def test_what_is_wrong_with_a_space_ends_the_job_with_its_sentence(cluster: ThreeNodes) -> None:
    teacher = "teacher={name: pretrained, weights: /shared/teacher.onnx}"
    done = cluster.sweeps(
        "submit", str(SPACE), "--name", "wrong", "--set", teacher, "--address", cluster.dashboard
    )
    assert "the cluster will check what is not here" in done.stderr
    assert "there is no file /shared/teacher.onnx" in done.stdout
    assert done.returncode == 2


@contextmanager
def in_its_second_epoch(
    cluster: ThreeNodes, study: str, *options: str, epochs: int
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A sweep of two trials that is followed from the laptop, and its log, once the first has come so far.

    Two workers a trial, and a CPU on each node: a trial spans two of them. Lines come here up to a second
    after they are written, and an epoch takes a third of one: `epochs` leave time for what the block does.
    """
    log = cluster.folder / f"{study}.log"
    length = ("--trials", "2", "--set", f"training.epochs={epochs}", "--set", "resources.workers_per_trial=2")
    submit = (
        "submit",
        str(SPACE),
        "--name",
        study,
        "--address",
        cluster.dashboard,
        *length,
        *PLAIN,
        *options,
    )
    with log.open("w") as output:
        following = subprocess.Popen(
            cluster.on_laptop([str(BIN / "sweeps"), *submit]),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    try:
        reached = f"trial 0 epoch 2/{epochs}"
        assert wait_for(lambda: reached in log.read_text(), timeout=200), log.read_text()
        yield following, log
    finally:
        following.kill()
        following.wait()


def test_nodes_that_share_no_disk_meet_in_an_object_store(cluster: ThreeNodes) -> None:
    subprocess.run(cluster.on_laptop(STORE.make_bucket), check=True)
    here = ("--home", STORE.home)
    with in_its_second_epoch(cluster, "stored", *here, epochs=16) as (following, log):
        _, worker = a_worker(*cluster.nodes)
        worker.kill()
        assert following.wait(timeout=300) == 0, log.read_text()
    assert "trial 0 is begun again, lost after epoch" in log.read_text()
    assert not (cluster.shared / "runs" / "studies" / "stored").exists()
    told = cluster.sweeps("leaderboard", "stored", "--format", "json", *here, MLFLOW_TRACKING_URI=TRACKER)
    assert told.returncode == 0, told.stderr
    assert [trial["state"] for trial in json.loads(told.stdout)["trials"]] == ["complete", "complete"]
    # Both students have come to the laptop, and no state of a training that is over.
    trials = STORE.copies / "studies" / "stored" / "trials"
    assert all((trials / f"{number:04d}" / "best" / "student.json").exists() for number in range(2))
    assert list(trials.rglob("*.pt")) == []


def test_the_loss_of_a_node_costs_no_trial(cluster: ThreeNodes) -> None:
    with in_its_second_epoch(cluster, "lost", epochs=16) as (following, log):
        _, *others = cluster.nodes  # without the head, where the sweep's driver is
        victim, _ = a_worker(*others)
        victim.lose()
        assert following.wait(timeout=300) == 0, log.read_text()
    assert "trial 0 is begun again, lost after epoch" in log.read_text()
    assert [trial["state"] for trial in leaderboard(cluster, "lost")] == ["complete", "complete"]
    assert standing(cluster, "lost")["trials"] == "2/2"
