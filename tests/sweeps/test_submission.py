"""What is checked before a sweep is sent to a cluster, and what is sent."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from distill.errors import InputError
from sweeps.cli import main
from sweeps.space import SpaceError, load_space
from sweeps.submission import SPACE_FILE, Submission, check_space, pack

SPACE = """
name: elsewhere
objectives: [{metric: validation/verification_accuracy, direction: maximize}]
base:
  teacher: {name: pretrained, weights: WEIGHTS}
  optimizer: {lr: LR}
search: {num_trials: 4}
"""


def write(folder: Path, *, weights: str, lr: str = "1e-3") -> str:
    file = folder / "elsewhere.yaml"
    file.write_text(SPACE.replace("WEIGHTS", weights).replace("LR", lr))
    return str(file)


def command_of(submission: Submission) -> click.Context:
    """What the job's own command line is understood as."""
    python, module, sweeps, *words = shlex.split(submission.entrypoint.partition("exec ")[2])
    assert (python, module, sweeps) == ("python", "-m", "sweeps")
    return main.commands[words[0]].make_context(words[0], words[1:])


def test_a_space_that_names_no_files_is_sent_whole_with_what_was_changed() -> None:
    checked = check_space("quickstart", overrides={"search.num_trials": "3"})
    assert checked.unchecked == ()
    assert checked.name == "quickstart"
    assert "num_trials: 3" in checked.yaml


def test_a_file_that_only_the_cluster_has_is_left_for_it_to_check(tmp_path: Path) -> None:
    source = write(tmp_path, weights="/nowhere/teacher.onnx")
    checked = check_space(source, overrides={"search.num_trials": "3"})
    assert [s.partition(": ")[2] for s in checked.unchecked] == [
        "base is refused: teacher.weights: there is no file /nowhere/teacher.onnx"
    ]
    (tmp_path / SPACE_FILE).write_text(checked.yaml)
    with pytest.raises(SpaceError, match=r"there is no file /nowhere/teacher\.onnx"):
        load_space(str(tmp_path / SPACE_FILE))
    assert "num_trials: 3" in checked.yaml
    assert checked.name == "elsewhere"


def test_what_a_space_extends_goes_along(tmp_path: Path) -> None:
    write(tmp_path, weights="/nowhere/teacher.onnx")
    (tmp_path / "more.yaml").write_text("extends: elsewhere.yaml\nname: more\n")
    checked = check_space(str(tmp_path / "more.yaml"))
    assert checked.name == "more"
    assert "extends" not in checked.yaml
    assert "/nowhere/teacher.onnx" in checked.yaml


def test_what_else_is_wrong_is_told_here(tmp_path: Path) -> None:
    with pytest.raises(SpaceError) as raised:
        check_space(write(tmp_path, weights="/nowhere/teacher.onnx", lr="-1"))
    assert ["lr must be greater than 0" in problem for problem in raised.value.problems] == [True]


def test_a_relative_path_means_a_file_of_this_machine(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"there is no file .*teacher\.onnx"):
        check_space(write(tmp_path, weights="teacher.onnx"))


def test_the_job_runs_a_study_of_this_name_where_it_is_told(tmp_path: Path) -> None:
    told = Submission(
        study="mine", space_yaml="name: mine\n", home="/shared/my runs", tracking_uri="http://tracker:5000"
    )
    context = command_of(told)
    assert context.command.name == "run"
    assert {name: context.params[name] for name in ("space", "name", "home", "tracking_uri")} == {
        "space": SPACE_FILE,
        "name": "mine",
        "home": "/shared/my runs",
        "tracking_uri": "http://tracker:5000",
    }
    assert told.metadata == {
        "study": "mine",
        "home": "/shared/my runs",
        "tracking_uri": "http://tracker:5000",
    }


def test_a_study_is_gone_on_with_where_the_nodes_environment_says() -> None:
    context = command_of(Submission(study="mine", space_yaml=None))
    assert context.command.name == "resume"
    assert (context.params["name"], context.params["home"]) == ("mine", None)


def test_a_job_without_a_home_is_refused_on_the_cluster() -> None:
    command = Submission(study="mine", space_yaml=None).entrypoint
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "SWEEPS_HOME is not set on the head node: say with --home where studies live\n"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"study": "../mine"}, "a study's name must be"),
        (
            {"home": "runs"},
            "--home must be absolute, as the cluster's nodes see it, or s3://BUCKET/PATH, got 'runs'",
        ),
        ({"tracking_uri": "https://me:secret@tracker"}, "--tracking-uri must hold no password"),
    ],
)
def test_what_would_go_wrong_on_the_cluster_is_refused_here(wrong: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as raised:
        Submission(**{"study": "mine", "space_yaml": None, **wrong})
    assert "secret" not in str(raised.value)


def test_what_is_packed_runs_where_the_project_is_not(tmp_path: Path) -> None:
    parcel = tmp_path / "parcel"
    parcel.mkdir()
    size = pack(Submission(study="mine", space_yaml="name: mine\n"), parcel)
    files = [file for file in parcel.rglob("*") if file.is_file()]
    assert size == sum(file.stat().st_size for file in files)
    assert size < 20 * 2**20
    assert not [file for file in files if "__pycache__" in file.parts or file.name.startswith(".")]
    assert (parcel / SPACE_FILE).read_text() == "name: mine\n"
    assert set(json.loads((parcel / "provenance.json").read_text())) == {"commit", "difference", "command"}

    ask = (
        "import distill, sweeps; from importlib.metadata import distribution, entry_points;"
        "from sweeps.space import packaged_names;"
        "print(distill.__file__); print(sweeps.__file__); print('quickstart' in packaged_names());"
        "print(distribution('face-distillation-sweeps').locate_file('').resolve());"
        "print([e.value for e in entry_points(group='distill.models')])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=parcel, env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        str(parcel / "distill" / "__init__.py"),
        str(parcel / "sweeps" / "__init__.py"),
        "True",
        str(parcel),
        "['sweeps.registry:fetch_student']",
    ], done.stderr
