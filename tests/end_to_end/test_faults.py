"""What happens in days of sweeping, really done to real sweeps: killed processes, full disks, two drivers."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from distill.checkpoint import LAST
from tests.end_to_end.machine import Machine, nodes, wait_for
from tests.end_to_end.mlflow_server import MlflowServer, empty_database

pytestmark = pytest.mark.slow

NODES_CHANGED = "the cluster's nodes changed: trials at once: "
EPOCHS = 3
SPACE = f"""
name: faults
objectives: [{{metric: validation/verification_accuracy, direction: maximize}}]
base:
  faces: {{name: embedded, size_px: 16}}
  training: {{epochs: {EPOCHS}, faces_per_epoch: 2048, batch_size: 64}}
parameters:
  optimizer.lr: {{type: float, low: 1e-4, high: 1e-2, log: true}}
search: {{sampler: random, num_trials: 3, seed: 1}}
scheduler: {{name: none}}
resources: {{max_concurrent: 1}}
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Its MLflow has its tables already, whose making takes longer than most of these sweeps."""
    empty_database(tmp_path / "home" / "mlflow.db")
    return Machine(home=tmp_path / "home")


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "faults.yaml"
    path.write_text(SPACE)
    return path


def trial_folder(machine: Machine, number: int) -> Path:
    return machine.home / "studies" / "faults" / "trials" / f"{number:04d}"


def children(machine: Machine) -> list[Run]:
    """The runs of the trials, in MLflow."""
    client = MlflowClient(tracking_uri=f"sqlite:///{machine.home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("faults")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return [run for run in runs if "mlflow.parentRunId" in run.data.tags]


def recorded_epochs(machine: Machine, run: Run, metric: str = "train/loss") -> list[int]:
    client = MlflowClient(tracking_uri=f"sqlite:///{machine.home / 'mlflow.db'}")
    return [entry.step for entry in client.get_metric_history(run.info.run_id, metric)]


def assert_nothing_is_lost_or_twice(machine: Machine, *, num_trials: int) -> list[dict[str, Any]]:
    """Every trial once in Optuna, MLflow and leaderboard, and each epoch of those that completed once."""
    trials = machine.leaderboard("faults")["trials"]
    complete = [trial for trial in trials if trial["state"] == "complete"]
    assert sorted(trial["trial"] for trial in trials) == list(range(len(trials)))
    assert len(complete) == num_trials
    runs = {run.info.run_id: run for run in children(machine)}
    assert sorted(runs) == sorted(trial["run_id"] for trial in trials)
    for trial in complete:
        run = runs[trial["run_id"]]
        assert run.info.status == "FINISHED"
        # One that goes on from an interrupted trial's checkpoint has that one's epochs too.
        assert recorded_epochs(machine, run) == list(range(1, EPOCHS + 1))
    return trials


def kill(machine: Machine, name: str) -> int:
    """Kills the one process of this machine's whose title holds a name, with SIGKILL."""
    found = [process for process in psutil.process_iter() if _belongs(process, machine, name)]
    assert len(found) >= 1, machine.processes()
    os.kill(found[0].pid, signal.SIGKILL)
    return found[0].pid


def _belongs(process: psutil.Process, machine: Machine, name: str) -> bool:
    try:
        return machine.owns(process) and name in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def last_epoch(folder: Path) -> float:
    """When a trial's last finished epoch was written; 0 before the first."""
    return (folder / LAST).stat().st_mtime if (folder / LAST).exists() else 0.0


def test_a_killed_trial_actor_costs_one_epoch_at_most(machine: Machine, space: Path) -> None:
    process = machine.start("run", str(space))
    folder = trial_folder(machine, 1)
    assert wait_for(lambda: (folder / LAST).exists() or process.poll() is not None, timeout=240)
    kill(machine, "ray::ImplicitFunc")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "trial 1 is begun again, lost after epoch" in out
    trials = assert_nothing_is_lost_or_twice(machine, num_trials=3)
    assert len(trials) == 3
    run = next(run for run in children(machine) if run.data.tags["trial"] == "1")
    assert run.data.tags["attempts"] == "2"
    assert run.data.tags["attempt.2"].startswith("lost after epoch")


def test_a_killed_training_worker_costs_one_epoch_at_most(machine: Machine, space: Path) -> None:
    workers = ("--set", "resources.workers_per_trial=2", "--set", "resources.cpus_per_worker=0.5")
    process = machine.start("run", str(space), "--trials", "1", *workers)
    folder = trial_folder(machine, 0)
    assert wait_for(lambda: (folder / LAST).exists() or process.poll() is not None, timeout=240)
    kill(machine, "RayTrainWorker")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "trial 0 is begun again, lost after epoch" in out
    assert_nothing_is_lost_or_twice(machine, num_trials=1)
    assert machine.wait_until_quiet() == []


def test_a_node_that_joins_is_used_and_one_that_is_lost_costs_one_epoch_at_most(
    tmp_path: Path, space: Path
) -> None:
    with nodes({"num_cpus": 1}) as cluster:
        machine = Machine(home=tmp_path / "home", ray=cluster.ray)
        # Long enough for the second node's actor to start while the first trial lasts: else the second trial
        # takes over the first one's.
        at_once = ("--set", "resources.max_concurrent=auto", "--set", "training.faces_per_epoch=10240")
        process = machine.start("run", str(space), "--trials", "4", *at_once)
        assert wait_for(
            lambda: (trial_folder(machine, 0) / LAST).exists() or process.poll() is not None, timeout=240
        )
        cluster.add({"num_cpus": 1})
        # The first to be begun beside another is on the new node.
        assert wait_for(lambda: len(_running(machine)) == 2 or process.poll() is not None, timeout=240)
        second = max(_running(machine))
        folder = trial_folder(machine, second)
        assert wait_for(lambda: (folder / LAST).exists() or process.poll() is not None, timeout=240)
        cluster.lose(0)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert [line[-1] for line in out.splitlines() if line.startswith(NODES_CHANGED)] == ["2", "1"]
    assert f"trial {second} is begun again, lost after epoch" in out
    trials = assert_nothing_is_lost_or_twice(machine, num_trials=4)
    assert len(trials) == 4


def _running(machine: Machine) -> set[int]:
    return {int(run.data.tags["trial"]) for run in children(machine) if run.info.status == "RUNNING"}


def test_a_driver_that_is_killed_at_ten_random_moments_loses_nothing(tmp_path: Path, space: Path) -> None:
    """The moments are drawn over the life of a driver: from its first steps to its last trial."""
    machine = Machine(home=tmp_path / "home")
    moments = random.Random(os.environ.get("FAULT_SEED", "0"))
    seconds = ("--set", "training.faces_per_epoch=4096", "--trials", "4")
    begun = False
    for _ in range(10):
        arguments = ("resume", "faults") if begun else ("run", str(space), *seconds)
        process = machine.start(*arguments)
        deadline = time.monotonic() + moments.uniform(3.0, 22.0)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        finished = process.poll() is not None
        folders = machine.cluster_folders()
        process.kill()
        process.communicate()
        assert machine.wait_until_quiet(60) == []
        assert not any(folder.exists() for folder in folders)
        begun = (machine.home / "studies" / "faults" / "space.yaml").exists() and machine.run(
            "status", "faults"
        ).returncode == 0
        if finished:
            break
    done = machine.run("resume", "faults") if begun else machine.run("run", str(space), *seconds)
    assert done.returncode == 0, done.stderr
    assert_nothing_is_lost_or_twice(machine, num_trials=4)


def test_a_truncated_checkpoint_is_put_aside_and_the_one_before_is_used(
    machine: Machine, space: Path
) -> None:
    process = machine.start("run", str(space), "--trials", "1")
    folder = trial_folder(machine, 0)
    assert wait_for(lambda: (folder / LAST).exists() or process.poll() is not None, timeout=240)
    first = last_epoch(folder)
    assert wait_for(lambda: last_epoch(folder) > first or process.poll() is not None, timeout=240)
    process.kill()
    process.communicate()
    assert machine.wait_until_quiet(60) == []
    with (folder / LAST).open("r+b") as file:
        file.truncate(1000)
    done = machine.run("resume", "faults")
    assert done.returncode == 0, done.stderr
    assert_nothing_is_lost_or_twice(machine, num_trials=1)
    assert "damaged and put aside" in done.stdout
    notes = [run.data.tags.get("mlflow.note.content", "") for run in children(machine)]
    assert any("damaged and put aside" in note for note in notes)


def test_trials_that_diverge_run_out_of_memory_or_hang_fail_with_their_reasons_and_the_rest_goes_on(
    machine: Machine, space: Path
) -> None:
    """What no setting brings about (memory that ends, a training that hangs) is brought about by the test's
    own stand-in for the training, which trains really where nothing is to happen."""
    done = machine.run_module(
        "tests.end_to_end.misbehaving",
        "run",
        str(space),
        *("--set", "resources.timeout_minutes=0.75"),
        *("--set", "resources.retries=1"),
        *("--set", "search.num_trials=5"),
        *("--set", "resources.max_concurrent=1"),
    )
    assert done.returncode == 4, done.stderr
    by_number = {trial["trial"]: trial for trial in machine.leaderboard("faults")["trials"]}
    runs = {int(run.data.tags["trial"]): run for run in children(machine)}
    assert {number: trial["state"] for number, trial in by_number.items()} == {
        0: "complete",
        1: "failed",
        2: "complete",
        3: "failed",
        4: "failed",
    }
    assert "DivergenceError" in runs[1].data.tags["reason"]
    # Memory ran out once: the batch was trained in two portions then, and it went on from its last epoch.
    assert "out of memory" in runs[2].data.tags["attempt.2"]
    assert "in 2 portions" in runs[2].data.tags["attempt.2"]
    assert [v for name, v in runs[2].data.tags.items() if name.startswith("accumulation.")] == ["2"]
    assert "MemoryError" in runs[3].data.tags["reason"]
    assert "resources.timeout_minutes (0.75)" in runs[4].data.tags["reason"]
    assert {run.info.status for number, run in runs.items() if by_number[number]["state"] == "failed"} == {
        "FAILED"
    }


def test_a_sweep_goes_on_without_its_tracker_and_everything_arrives_later_in_order_and_once(
    machine: Machine, space: Path, tmp_path: Path
) -> None:
    outage_s = float(os.environ.get("FAULT_OUTAGE_S", "20"))
    (tmp_path / "server").mkdir()
    server = MlflowServer(root=tmp_path / "server").start()
    try:
        # As many trials as outlast the outage, on any machine.
        trials = 4 + round(outage_s / 5)
        process = machine.start("run", str(space), "--trials", str(trials), "--tracking-uri", server.uri)
        folder = trial_folder(machine, 0)
        assert wait_for(lambda: (folder / LAST).exists() or process.poll() is not None, timeout=240)
        server.kill()
        time.sleep(outage_s)
        ended = len(list((machine.home / "studies" / "faults" / "trials").glob("*/best")))
        assert ended >= 1, "the sweep stood still while its tracker was away"
        server.start()
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, out + err
        client = MlflowClient(tracking_uri=server.uri)
        experiment = client.get_experiment_by_name("faults")
        assert experiment is not None
        runs = [
            r for r in client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" in r.data.tags
        ]
        assert sorted(int(run.data.tags["trial"]) for run in runs) == list(range(trials))
        assert {run.info.status for run in runs} == {"FINISHED"}
        for run in runs:
            history = client.get_metric_history(run.info.run_id, "train/loss")
            assert [entry.step for entry in history] == list(range(1, EPOCHS + 1))
        (parent,) = client.search_runs([experiment.experiment_id], filter_string="tags.kind = 'sweep'")
        assert parent.info.status == "FINISHED"
    finally:
        server.kill()


def test_two_drivers_cannot_hold_one_study(machine: Machine, space: Path) -> None:
    process = machine.start("run", str(space), "--trials", "50")
    assert wait_for(
        lambda: (trial_folder(machine, 0) / LAST).exists() or process.poll() is not None, timeout=240
    )
    second = machine.run("resume", "faults")
    assert second.returncode == 3
    assert f"is being driven by process {process.pid}" in second.stderr
    stopped = machine.run("stop", "faults")
    assert stopped.returncode == 0, stopped.stderr
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_ctrl_c_once_ends_cleanly_and_twice_at_once_and_both_can_be_resumed(
    machine: Machine, space: Path
) -> None:
    process = machine.start("run", str(space), "--trials", "2")
    assert wait_for(
        lambda: (trial_folder(machine, 0) / LAST).exists() or process.poll() is not None, timeout=240
    )
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert process.returncode == 130
    assert "sweeps resume faults" in out
    assert machine.wait_until_quiet(60) == []
    assert all(trial["state"] != "running" for trial in machine.leaderboard("faults")["trials"])

    process = machine.start("resume", "faults")
    assert wait_for(lambda: _is_driven(machine) and _trains(machine), timeout=240)
    began = time.monotonic()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - began < 10
    assert machine.wait_until_quiet(60) == []

    done = machine.run("resume", "faults")
    assert done.returncode == 0, done.stderr
    assert_nothing_is_lost_or_twice(machine, num_trials=2)


def _is_driven(machine: Machine) -> bool:
    return "running" in machine.run("status", "faults").stdout


def _trains(machine: Machine) -> bool:
    return any("ray::ImplicitFunc" in line for line in machine.processes())


def test_a_full_disk_ends_the_sweep_with_a_sentence_and_it_goes_on_once_there_is_room(
    tmp_path: Path, space: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(small)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system of its own can be mounted here: {mounted.stderr.strip()}")
    machine = Machine(home=small / "home")
    try:
        process = machine.start("run", str(space), "--trials", "3")
        folder = trial_folder(machine, 0)
        assert wait_for(lambda: (folder / LAST).exists() or process.poll() is not None, timeout=240)
        filler = small / "filler"
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(b"\0" * 2**16)
                    file.flush()
            except OSError:
                pass
        out, err = process.communicate(timeout=240)
        assert process.returncode == 3, out + err
        assert "is full" in err
        assert "sweeps resume faults" in err
        assert "Traceback" not in err
        assert machine.wait_until_quiet(60) == []
        readable = machine.leaderboard("faults")["trials"]
        assert readable
        filler.unlink()
        done = machine.run("resume", "faults")
        assert done.returncode == 0, done.stderr
        assert_nothing_is_lost_or_twice(machine, num_trials=3)
    finally:
        machine.wait_until_quiet(60)
        subprocess.run(["umount", "-l", str(small)], check=True)
