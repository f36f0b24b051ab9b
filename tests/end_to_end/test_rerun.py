"""Trials of a real sweep, repeated: on one machine every number is what it was."""

import json

import pytest

from tests.end_to_end.machine import Machine

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("state", ["complete", "pruned"])
def test_a_repeated_trial_has_exactly_the_numbers_of_the_first(swept: Machine, state: str) -> None:
    number = next(t["trial"] for t in swept.leaderboard("small")["trials"] if t["state"] == state)
    done = swept.run("rerun", "small", str(number), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["agrees"]
    assert document["epochs"] == (3 if state == "complete" else 1)
    assert {metric["verdict"] for metric in document["metrics"].values()} == {"equal"}
    assert "validation/verification_accuracy" in document["metrics"]
    assert not [sentence for sentence in document["changed"] if "digest" in sentence or "was " in sentence]


def test_a_trial_of_a_real_sweep_is_explained_and_compared(swept: Machine) -> None:
    best, other = (t["trial"] for t in swept.leaderboard("small")["trials"][:2])
    shown = json.loads(swept.run("show", "small", str(other), "--json").stdout)
    assert shown["best_trial"] == best
    assert [epoch for epoch, _ in shown["curves"]["train/loss"]] == list(range(1, shown["epochs"] + 1))
    assert shown["student_is_there"]
    compared = json.loads(swept.run("compare", "small", f"small:{other}", "teacher", "--json").stdout)
    assert [subject["name"] for subject in compared["subjects"]] == [
        f"small:{best}",
        f"small:{other}",
        "teacher",
    ]
    assert compared["subjects"][2]["differences"]["verification_accuracy"]["verdict"] == "really better"
