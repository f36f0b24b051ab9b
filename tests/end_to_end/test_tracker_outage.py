"""A tracker that dies, errs and loses its answers: everything arrives later, in order, once."""

import enum
import http.client
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from sweeps import tracking
from sweeps.home import Home
from sweeps.outbox import Outbox
from sweeps.provenance import Provenance
from sweeps.tracking import DatasetRecord, Tracker
from tests.end_to_end.machine import wait_for
from tests.end_to_end.mlflow_server import MlflowServer

pytestmark = pytest.mark.slow

EPOCHS = 4
SPACE = "objectives: [{metric: validation/accuracy, direction: maximize}]\n"


class Weather(enum.Enum):
    """What becomes of requests on their way."""

    FINE = "they are forwarded"
    ERRORS = "all are answered with 500"
    SOME_ERRORS = "some are answered with 500"
    LOST_ANSWERS = "they are forwarded, and some answers are lost"


class Proxy:
    """Stands between a tracker and its server."""

    def __init__(self, server: MlflowServer):
        self.weather = Weather.FINE
        self.num_disturbed = 0
        self._num_runs_made = 0
        self._chance = random.Random(0)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                disturbed = proxy.disturbs(self.path)
                if disturbed and proxy.weather is not Weather.LOST_ANSWERS:
                    self.send_error(500)
                    return
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name != "Host"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if disturbed:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers["Content-Type"] or "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def disturbs(self, path: str) -> bool:
        """Whether a request suffers. Where some do: the making of runs, and a tenth of the rest."""
        if path.endswith("runs/create"):
            self._num_runs_made += 1
            chosen = self._num_runs_made % 2 == 1 or self.weather is Weather.LOST_ANSWERS
        else:
            chosen = self._chance.random() < 0.1
        disturbed = self.weather is not Weather.FINE and (chosen or self.weather is Weather.ERRORS)
        self.num_disturbed += disturbed
        return disturbed

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server")).start()
    yield server
    server.kill()


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[Proxy]:
    proxy = Proxy(server)
    yield proxy
    proxy.close()


def begun(home: Home, study: str) -> Tracker:
    tracker = Tracker(home, study=study, on_run=lambda number, run_id: None)
    provenance = Provenance(commit=None, difference="", command="sweeps run")
    tracker.start_sweep(space_yaml=SPACE, params={"search.seed": 0}, provenance=provenance)
    return tracker


def record_trial(tracker: Tracker, number: int, student: Path, *, pause_s: float = 0.0) -> None:
    faces = DatasetRecord(name="faces", digest="ab" * 32, context="training", source="{}", is_drawn=True)
    tracker.start_trial(
        number,
        name=f"{number:03d}",
        params={"optimizer.lr": number},
        tags={"method": "synthdistill"},
        datasets=lambda: [faces],
        config_json="{}",
    )
    for epoch in range(1, EPOCHS + 1):
        time.sleep(pause_s)
        tracker.log_epoch(number, epoch=epoch, metrics={"validation/accuracy": epoch / 10, "train/loss": 1.0})
    tracker.tag_trial(number, pareto="false")
    tracker.finish_trial(number, state="complete", best={"validation/accuracy": 0.4})
    tracker.log_student(number, student)


def student_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "best"
    folder.mkdir()
    (folder / "student.json").write_text('{"a": 1}')
    return folder


def assert_all_is_there_once(server: MlflowServer, study: str, *, num_trials: int) -> None:
    client = MlflowClient(tracking_uri=server.uri)
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    (parent,) = [run for run in runs if run.data.tags.get("kind") == "sweep"]
    assert parent.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {"leaderboard.csv"}
    children = sorted((run for run in runs if run is not parent), key=lambda run: int(run.data.tags["trial"]))
    assert [run.data.tags["trial"] for run in children] == [str(number) for number in range(num_trials)]
    for run in children:
        assert_whole(client, run)
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    ends = [run.info.end_time or 0 for run in children]
    assert ends == sorted(ends)


def assert_whole(client: MlflowClient, run: Run) -> None:
    assert run.info.status == "FINISHED"
    assert (run.data.tags["state"], run.data.tags["pareto"]) == ("complete", "false")
    assert run.data.params == {"optimizer.lr": run.data.tags["trial"]}
    history = client.get_metric_history(run.info.run_id, "validation/accuracy")
    assert [(point.step, point.value) for point in history] == [(e, e / 10) for e in range(1, EPOCHS + 1)]
    times = [point.timestamp for point in history]
    assert times == sorted(times)
    assert run.inputs is not None
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["faces"]
    kept = {file.path for file in client.list_artifacts(run.info.run_id, "student")}
    assert kept == {"student/student.json"}


def finish(tracker: Tracker) -> bool:
    tracker.finish_sweep(status="FINISHED", metrics={}, leaderboard={"leaderboard.csv": "rank\n"})
    return tracker.close()


def test_a_server_that_is_killed_and_comes_back_has_everything_once(
    server: MlflowServer, tmp_path: Path
) -> None:
    tracker = begun(Home.at(str(tmp_path / "home"), server.uri), "killed")
    student = student_folder(tmp_path)
    record_trial(tracker, 0, student)
    assert wait_for(lambda: tracker.num_waiting < 4, timeout=120)
    killed = threading.Thread(target=lambda: (server.kill(), time.sleep(10), server.start()))
    killed.start()
    for number in range(1, 4):
        record_trial(tracker, number, student, pause_s=0.2)
    waited = tracker.num_waiting
    killed.join()
    assert waited > 3 * EPOCHS
    assert finish(tracker)
    assert_all_is_there_once(server, "killed", num_trials=4)


@pytest.mark.parametrize("weather", [Weather.SOME_ERRORS, Weather.LOST_ANSWERS])
def test_errors_and_lost_answers_double_nothing(
    server: MlflowServer, proxy: Proxy, weather: Weather, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "RETRY_S", 0.05)
    proxy.weather = weather
    tracker = begun(Home.at(str(tmp_path / "home"), proxy.uri), weather.name.lower())
    student = student_folder(tmp_path)
    for number in range(3):
        record_trial(tracker, number, student)
    assert finish(tracker)
    assert proxy.num_disturbed >= 4  # the making of each run, at least
    assert_all_is_there_once(server, weather.name.lower(), num_trials=3)


def test_a_sweep_that_ended_while_the_tracker_was_away_is_sent_by_who_opens_it_next(
    server: MlflowServer, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "RETRY_S", 0.1)
    monkeypatch.setattr(tracking, "FLUSH_S", 2.0)
    home = Home.at(str(tmp_path / "home"), proxy.uri)
    proxy.weather = Weather.ERRORS
    tracker = begun(home, "away")
    student = student_folder(tmp_path)
    for number in range(2):
        record_trial(tracker, number, student)
    began = time.monotonic()
    assert not finish(tracker)
    assert time.monotonic() - began < 10
    waiting = Outbox(home.study("away").root).num_waiting
    assert tracker.num_waiting == waiting == 2 * (EPOCHS + 5) + 2

    monkeypatch.setattr(tracking, "FLUSH_S", 60.0)
    proxy.weather = Weather.FINE
    later = Tracker(home, study="away", on_run=lambda number, run_id: None)
    assert later.close()
    assert_all_is_there_once(server, "away", num_trials=2)
