"""What MLflow holds of a sweep, read back from a database of its own."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException, RestException
from requests import HTTPError, PreparedRequest, Response, Session

from sweeps import tracking
from sweeps.delivery import UnknownRunError, is_refused_for_good
from sweeps.home import Home
from sweeps.provenance import Provenance
from sweeps.tracking import DatasetRecord, Tracker, check_tracker, flatten
from tests.end_to_end.machine import wait_for
from tests.end_to_end.mlflow_server import MlflowServer, empty_database

SPACE = """
name: made
objectives: [{metric: validation/accuracy, direction: maximize}]
parameters: {optimizer.lr: {type: float, low: 0.1, high: 1.0}}
"""
PROVENANCE = Provenance(commit="c" * 40, difference="+a line\n", command="sweeps run made")
FACES = DatasetRecord(name="faces", digest="ab" * 32, context="training", source="{}", is_drawn=True)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    place = Home.at(str(tmp_path / "home"), f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")
    empty_database(place.root / "mlflow.db")
    return place


@pytest.mark.slow
def test_a_database_whose_making_is_cut_short_is_made_again(tmp_path: Path) -> None:
    home = Home.at(str(tmp_path / "home"), f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")
    home.ensure()
    make = "import sys; from sweeps.home import Home; from sweeps.tracking import check_tracker"
    place = (str(home.root), home.tracking_uri)
    making = subprocess.Popen(
        [sys.executable, "-c", f"{make}; check_tracker(Home.at(*sys.argv[1:]))", *place]
    )

    def is_half_made() -> bool:
        return any(path.stat().st_size for path in home.root.glob(".mlflow-*/mlflow.db"))

    assert wait_for(lambda: is_half_made() or making.poll() is not None, timeout=120)
    making.kill()
    making.wait()
    assert home.missing_database is not None
    assert check_tracker(home).ok
    assert home.missing_database is None


class Sweep:
    """A driver of the study `made`, without a search: it records what it is told."""

    def __init__(self, home: Home):
        self.runs: dict[int, str] = {}
        self.tracker = Tracker(home, study="made", on_run=self.runs.__setitem__)
        self.tracker.start_sweep(space_yaml=SPACE, params={"search.seed": 0}, provenance=PROVENANCE)

    def start(self, number: int) -> None:
        self.tracker.start_trial(
            number,
            name=f"{number:03d} tiny",
            params={"optimizer.lr": 0.1 * number, "student.name": "tiny"},
            tags={"method": "synthdistill", "student": "tiny", "seed": "0"},
            datasets=lambda: [FACES],
            digests=lambda: {"teacher_digest": "t" * 64},
            config_json='{"seed": 0}',
        )

    def trial(self, number: int, *, epochs: int = 3, student: Path | None = None) -> None:
        self.start(number)
        for epoch in range(1, epochs + 1):
            self.tracker.log_epoch(number, epoch=epoch, metrics={"validation/accuracy": epoch / 10})
        best = {"validation/accuracy": epochs / 10}
        self.tracker.finish_trial(number, state="complete", best=best)
        if student is not None:
            self.tracker.log_student(number, student)

    def end(self) -> bool:
        self.tracker.finish_sweep(
            status="FINISHED", metrics={"trials/complete": 1.0}, leaderboard={"leaderboard.csv": "rank\n"}
        )
        return self.tracker.close()


def read(home: Home) -> tuple[MlflowClient, Run, dict[int, Run]]:
    """The sweep's run and those of its trials, of which each must be there once."""
    client = MlflowClient(tracking_uri=home.tracking_uri)
    experiment = client.get_experiment_by_name("made")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    (parent,) = [run for run in runs if run.data.tags.get("kind") == "sweep"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(runs) == len(children) + 1
    by_number = {int(run.data.tags["trial"]): run for run in children}
    assert len(by_number) == len(children)
    return client, parent, by_number


def files(client: MlflowClient, run: Run, folder: str | None = None) -> set[str]:
    return {file.path for file in client.list_artifacts(run.info.run_id, folder)}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Sweep]:
    root = tmp_path_factory.mktemp("swept")
    home = Home.at(str(root / "home"), f"sqlite:///{root / 'home' / 'mlflow.db'}")
    empty_database(home.root / "mlflow.db")
    student = root / "student"
    student.mkdir()
    (student / "student.json").write_text("{}")
    sweep = Sweep(home)
    sweep.trial(0, student=student)
    sweep.trial(1, student=root / "gone")
    sweep.start(2)
    sweep.tracker.note_attempt(2, 2, "the worker was lost")
    sweep.tracker.note_attempt(2, 3, "out of memory: half the batch, accumulated")
    sweep.tracker.tag_trial(2, pareto="true", note="**kept**", lineage="1")
    sweep.tracker.finish_trial(2, state="pruned", reason="stopped early", best={})
    pictures = root / "pictures"
    pictures.mkdir()
    (pictures / "history.png").write_bytes(b"png")
    sweep.tracker.log_sweep_files(pictures, "report")
    sweep.tracker.describe_sweep("# Best\n\n![History](artifact:report/history.png)\n")
    assert sweep.end()
    return home, sweep


@pytest.mark.slow
def test_each_trial_is_a_child_that_ended_as_it_did(swept: tuple[Home, Sweep]) -> None:
    _, parent, children = read(swept[0])
    assert parent.info.status == "FINISHED"
    assert {n: (run.info.status, run.data.tags["state"]) for n, run in children.items()} == {
        0: ("FINISHED", "complete"),
        1: ("FINISHED", "complete"),
        2: ("KILLED", "pruned"),
    }
    assert {n: run.info.run_id for n, run in children.items()} == swept[1].runs
    assert children[2].data.tags["reason"] == "stopped early"


@pytest.mark.slow
def test_an_epoch_is_one_step(swept: tuple[Home, Sweep]) -> None:
    client, _, children = read(swept[0])
    history = client.get_metric_history(children[0].info.run_id, "validation/accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert children[0].data.metrics["best/validation/accuracy"] == 0.3


@pytest.mark.slow
def test_a_trial_can_be_repeated_from_its_run_alone(swept: tuple[Home, Sweep]) -> None:
    client, parent, children = read(swept[0])
    run = children[0]
    assert run.data.params == {"optimizer.lr": "0.0", "student.name": "tiny"}
    tags = {name: run.data.tags[name] for name in ("mlflow.source.git.commit", "uncommitted", "seed")}
    assert tags == {"mlflow.source.git.commit": "c" * 40, "uncommitted": "true", "seed": "0"}
    assert run.data.tags["teacher_digest"] == "t" * 64
    assert {"config.json", "environment.json"} <= files(client, run)
    difference = f"uncommitted/{run.data.tags['uncommitted_digest']}.diff"
    assert files(client, parent, "uncommitted") == {difference}
    assert run.inputs is not None
    (faces,) = run.inputs.dataset_inputs
    assert (faces.dataset.name, faces.dataset.digest, faces.tags[0].value) == (
        "faces",
        FACES.digest[:36],
        "training",
    )


@pytest.mark.slow
def test_a_student_is_kept_and_one_that_is_gone_is_told(swept: tuple[Home, Sweep]) -> None:
    client, _, children = read(swept[0])
    assert files(client, children[0], "student") == {"student/student.json"}
    assert "was gone before it could be kept" in children[1].data.tags["missing.student"]


@pytest.mark.slow
def test_a_trial_says_how_it_was_begun_again(swept: tuple[Home, Sweep]) -> None:
    tags = read(swept[0])[2][2].data.tags
    assert tags["attempts"] == "3"
    assert tags["attempt.2"] == "the worker was lost"
    assert tags["attempt.3"].startswith("out of memory")
    assert (tags["pareto"], tags["lineage"], tags["mlflow.note.content"]) == ("true", "1", "**kept**")


@pytest.mark.slow
def test_the_sweep_shows_its_leaderboard_and_pictures(swept: tuple[Home, Sweep]) -> None:
    client, parent, _ = read(swept[0])
    assert {"leaderboard.csv", "space.yaml", "environment.json"} <= files(client, parent)
    assert files(client, parent, "report") == {"report/history.png"}
    picture = f"get-artifact?run_uuid={parent.info.run_id}&path=report/history.png"
    assert picture in parent.data.tags["mlflow.note.content"]


@pytest.mark.slow
def test_the_experiment_says_what_it_is_and_which_columns_to_show(swept: tuple[Home, Sweep]) -> None:
    client, parent, _ = read(swept[0])
    tags = client.get_experiment(parent.info.experiment_id).tags
    assert "maximizes validation/accuracy" in tags["mlflow.note.content"]
    view = json.loads(tags["mlflow.sharedViewState.trials"])
    assert view["orderByKey"] == "metrics.`best/validation/accuracy`"
    assert "params.`optimizer.lr`" in view["selectedColumns"]
    assert view["orderByAsc"] is False
    page = swept[1].tracker.page
    assert page is not None
    assert page.startswith(f"#/experiments/{parent.info.experiment_id}/runs?")
    assert page.endswith("viewStateShareKey=trials")


@pytest.mark.slow
def test_a_second_driver_goes_on_in_the_same_runs(home: Home) -> None:
    first = Sweep(home)
    first.trial(0)
    first.start(1)
    assert first.tracker.close()
    second = Sweep(home)
    assert second.tracker.adopt_children() == {0: "complete", 1: "running"}
    second.tracker.finish_trial(1, state="interrupted", best={})
    second.trial(2)
    assert second.end()
    _, parent, children = read(home)
    assert parent.info.status == "FINISHED"
    assert {n: run.data.tags["state"] for n, run in children.items()} == {
        0: "complete",
        1: "interrupted",
        2: "complete",
    }
    assert second.runs == {n: children[n].info.run_id for n in (1, 2)}


@pytest.mark.slow
def test_a_run_that_others_put_below_the_sweep_is_left_alone(home: Home) -> None:
    first = Sweep(home)
    first.start(0)
    assert first.tracker.close()
    client, parent, _ = read(home)
    tags = {"mlflow.parentRunId": parent.info.run_id}
    notes = client.create_run(parent.info.experiment_id, tags=tags).info.run_id
    second = Sweep(home)
    second.tracker.finish_trial(0, state="interrupted", best={})
    assert second.end()
    assert second.runs == first.runs
    assert client.get_run(notes).info.lifecycle_stage == "active"


@pytest.mark.slow
def test_what_was_never_sent_is_sent_by_the_next_driver_and_what_was_half_sent_is_not_doubled(
    home: Home,
) -> None:
    sweep = Sweep(home)
    for number in range(3):
        sweep.trial(number)
    assert sweep.end()
    before = {n: run.info.run_id for n, run in read(home)[2].items()}
    # As if the driver had been killed after each record was taken, and before it knew.
    sent = home.study("made").root / "sent.json"
    sweep_run = json.loads(sent.read_text())["sweep_run"]
    first_line = (home.study("made").root / "records.jsonl").read_bytes().index(b"\n") + 1
    sent.write_text(json.dumps({"offset": first_line, "sweep_run": sweep_run}))
    again = Sweep(home)
    assert again.end()
    client, _, children = read(home)
    assert {n: run.info.run_id for n, run in children.items()} == before
    for run in children.values():
        history = client.get_metric_history(run.info.run_id, "validation/accuracy")
        assert [point.step for point in history] == [1, 2, 3]
        assert run.inputs is not None
        assert len(run.inputs.dataset_inputs) == 1


@pytest.mark.slow
def test_a_new_tracker_is_sent_the_whole_study(home: Home, tmp_path: Path) -> None:
    sweep = Sweep(home)
    sweep.trial(0)
    assert sweep.end()
    empty_database(tmp_path / "other.db")
    elsewhere = replace(home, tracking_uri=f"sqlite:///{tmp_path / 'other.db'}")
    again = Sweep(elsewhere)
    again.trial(1)
    assert again.end()
    assert sorted(read(elsewhere)[2]) == [0, 1]
    assert sorted(read(home)[2]) == [0]


@pytest.mark.slow
def test_two_studies_of_one_name_keep_their_trials_apart_in_one_tracker(home: Home, tmp_path: Path) -> None:
    mine, theirs = Sweep(home), Sweep(replace(home, root=tmp_path / "theirs"))
    for sweep in (mine, theirs):
        sweep.trial(0)
        assert sweep.end()
    client = MlflowClient(tracking_uri=home.tracking_uri)
    (experiment,) = {run.info.experiment_id for run in map(client.get_run, mine.runs.values())}
    runs = client.search_runs([experiment])
    assert len({run.data.tags.get("mlflow.parentRunId") for run in runs if "trial" in run.data.tags}) == 2
    assert mine.runs[0] != theirs.runs[0]


@pytest.mark.slow
def test_a_record_that_is_refused_for_good_holds_up_no_other(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = Sweep(home)
    sweep.start(0)
    sweep.tracker.log_epoch(0, epoch=1, metrics={"not/a name!": 1.0})
    sweep.tracker.log_epoch(7, epoch=1, metrics={"validation/accuracy": 1.0})
    sweep.tracker.log_epoch(0, epoch=2, metrics={"validation/accuracy": 0.2})
    assert sweep.end()
    assert read(home)[2][0].data.metrics == {"validation/accuracy": 0.2}
    refused = (home.study("made").root / "refused.jsonl").read_text().splitlines()
    assert [json.loads(line)["record"]["run"] for line in refused] == [0, 7]
    assert "no run of trial 7" in refused[1]
    assert "refused a record for good" in capsys.readouterr().out


@pytest.mark.slow
def test_faces_that_cannot_be_read_any_more_are_told_in_a_tag(home: Home) -> None:
    sweep = Sweep(home)

    def gone() -> list[DatasetRecord]:
        raise FileNotFoundError("lfw.bin is gone")

    sweep.tracker.start_trial(0, name="0", params={}, tags={}, datasets=gone, config_json="{}")
    sweep.tracker.finish_trial(0, state="complete", best={})
    assert sweep.end()
    assert read(home)[2][0].data.tags["datasets"] == "not known: lfw.bin is gone"


@pytest.mark.slow
def test_what_waited_for_a_server_takes_few_requests_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight: a run is made, its place asked for, a batch, faces, two texts, a student's file, its end."""
    monkeypatch.setattr(tracking, "FLUSH_S", 0.0)
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "student.json").write_text("{}")
    away = Sweep(Home.at(str(tmp_path / "home"), "http://127.0.0.1:9"))
    for number in range(3):
        away.trial(number, student=tmp_path / "student")
    assert not away.end()

    server = MlflowServer(tmp_path).start()
    try:
        monkeypatch.setattr(tracking, "FLUSH_S", 60.0)
        asked: list[str] = []
        send = Session.send

        def counted(session: Session, request: PreparedRequest, **options: Any) -> Response:
            asked.append(f"{request.method} {request.path_url}")
            return send(session, request, **options)

        monkeypatch.setattr(Session, "send", counted)
        home = Home.at(str(tmp_path / "home"), server.uri)
        assert Tracker(home, study="made", on_run=lambda number, run_id: None).close()
        assert len(asked) <= 20 + 3 * 8
        client, _, children = read(home)
        for run in children.values():
            history = client.get_metric_history(run.info.run_id, "validation/accuracy")
            assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
            assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "complete")
            assert files(client, run, "student") == {"student/student.json"}
    finally:
        server.kill()


def test_a_tracker_that_is_away_past_the_end_costs_the_flush_and_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "FLUSH_S", 1.0)
    monkeypatch.setattr(tracking, "RETRY_S", 0.1)
    sweep = Sweep(Home.at(str(tmp_path), "http://me:s3cret@127.0.0.1:9"))
    sweep.trial(0, epochs=2)
    assert not sweep.end()
    # The sweep, a trial, its faces, two epochs, its end, the sweep's.
    assert sweep.tracker.num_waiting == 7
    said = capsys.readouterr().out
    assert said.count("did not take a record") == 1
    assert "http://me:***@127.0.0.1:9" in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (MlflowException.invalid_parameter_value("a name"), True),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run"}), True),
        (RestException({"error_code": "PERMISSION_DENIED", "message": "no"}), False),
        (RestException({"error_code": "INTERNAL_ERROR", "message": "no"}), False),
        (RestException({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slowly"}), False),
        (RestException({"detail": "Not Found"}), False),
        (UnknownRunError("no run"), True),
        (OSError("no route to host"), False),
        (ValueError("a bug loses nothing"), False),
    ],
)
def test_only_what_the_tracker_will_never_take_is_refused_for_good(error: Exception, refused: bool) -> None:
    assert is_refused_for_good(error) is refused


@pytest.mark.parametrize(("status", "refused"), [(400, True), (413, True), (401, False), (503, False)])
def test_an_artifact_is_refused_for_good_by_its_status(status: int, refused: bool) -> None:
    response = Response()
    response.status_code = status
    assert is_refused_for_good(HTTPError("no", response=response)) is refused


def test_a_tracker_that_is_not_there_is_told_without_delay(tmp_path: Path) -> None:
    check = check_tracker(Home.at(str(tmp_path), "http://127.0.0.1:9"))
    assert not check.ok
    assert check.finding.startswith("MLflow at http://127.0.0.1:9 does not answer (")
    assert check.finding.endswith("): choose another with --tracking-uri")


def test_a_database_that_cannot_be_opened_is_told_without_its_password(tmp_path: Path) -> None:
    check = check_tracker(Home.at(str(tmp_path), "nonsense://me:s3cret@db/mlflow"))
    assert not check.ok
    assert check.finding.startswith("MLflow at nonsense://me:***@db/mlflow does not answer (")
    assert "s3cret" not in check.finding


def test_settings_are_flattened_to_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": None}, "d": "x"}) == {"a.b": 1, "d": "x"}
