"""Ctrl-C and kill -9: nothing finished is lost, nothing is counted twice, nothing is left running."""

import signal
import subprocess
import time

import pytest
from mlflow import MlflowClient

from tests.end_to_end.machine import SPACE, Machine, wait_for

pytestmark = pytest.mark.slow

PLAIN = ("--set", "scheduler.name=none", "--set", "promotion.automatic=false")


def sweep_until_a_trial_is_done(machine: Machine, *, num_trials: int = 4) -> subprocess.Popen[str]:
    """Starts a sweep and returns when its first trial is complete and its second has begun."""
    process = machine.start("run", str(SPACE), "--trials", str(num_trials), *PLAIN)
    trials = machine.home / "studies" / "small" / "trials"
    assert wait_for(lambda: (trials / "0001" / "last.pt").exists() or process.poll() is not None, timeout=240)
    assert process.poll() is None, process.communicate()
    return process


def assert_every_trial_is_accounted_for_once(machine: Machine, *, complete: int) -> None:
    trials = machine.leaderboard("small")["trials"]
    numbers = [trial["trial"] for trial in trials]
    assert sorted(numbers) == list(range(len(trials)))
    assert sum(trial["state"] == "complete" for trial in trials) == complete
    assert all(trial["state"] in ("complete", "interrupted") for trial in trials)
    client = MlflowClient(tracking_uri=f"sqlite:///{machine.home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    children = {run.info.run_id: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert sorted(children) == sorted(trial["run_id"] for trial in trials)
    expected = {"complete": "FINISHED", "interrupted": "FAILED"}
    assert [children[trial["run_id"]].info.status for trial in trials] == [
        expected[trial["state"]] for trial in trials
    ]
    assert len(runs) == len(children) + 1


def test_ctrl_c_ends_cleanly_and_the_sweep_goes_on_later(machine: Machine) -> None:
    process = sweep_until_a_trial_is_done(machine)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert process.returncode == 130
    assert "sweeps resume small" in out
    assert machine.wait_until_quiet() == []
    before = machine.leaderboard("small")["trials"]
    assert [trial["trial"] for trial in before if trial["state"] == "complete"] == [0]
    assert all(trial["state"] != "running" for trial in before)

    done = machine.run("resume", "small")
    assert done.returncode == 0, done.stderr
    assert_every_trial_is_accounted_for_once(machine, complete=4)


def test_a_killed_driver_leaves_nothing_running_and_a_sweep_that_goes_on(machine: Machine) -> None:
    process = sweep_until_a_trial_is_done(machine)
    process.kill()
    process.communicate()
    assert machine.wait_until_quiet() == []
    refused = machine.run("status", "small")
    assert refused.returncode == 0
    assert "stopped" in refused.stdout

    done = machine.run("resume", "small")
    assert done.returncode == 0, done.stderr
    assert_every_trial_is_accounted_for_once(machine, complete=4)
    assert machine.wait_until_quiet() == []


def test_a_study_has_one_driver_at_a_time_and_stop_ends_it(machine: Machine) -> None:
    process = sweep_until_a_trial_is_done(machine, num_trials=100)
    second = machine.run("resume", "small")
    assert second.returncode == 3
    assert f"is being driven by process {process.pid}" in second.stderr
    stopped = machine.run("stop", "small")
    assert stopped.returncode == 0, stopped.stderr
    process.communicate(timeout=30)
    assert process.returncode == 130
