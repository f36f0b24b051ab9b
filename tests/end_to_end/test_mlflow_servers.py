"""Tracking on servers that want a password and know their hosts, and what is said where they refuse."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweeps.home import Home
from sweeps.provenance import Provenance
from sweeps.tracking import Tracker, check_tracker
from tests.end_to_end.mlflow_server import MlflowServer, free_port

pytestmark = pytest.mark.slow

PASSWORD = "correct-horse-battery"
AUTH = """[mlflow]
default_permission = READ
database_uri = sqlite:///{root}/users.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One that wants a password, and is known as 127.0.0.1 and not as localhost."""
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    root = tmp_path_factory.mktemp("guarded")
    (root / "auth.ini").write_text(AUTH.format(root=root))
    port = free_port()
    server = MlflowServer(
        root,
        port=port,
        options=("--app-name", "basic-auth", "--allowed-hosts", f"127.0.0.1:{port}"),
        environment={
            "MLFLOW_AUTH_CONFIG_PATH": str(root / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "for a test",
        },
    ).start()
    yield server
    server.kill()


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)


def record(home: Home, study: str, student: Path) -> None:
    runs: dict[int, str] = {}
    tracker = Tracker(home, study=study, on_run=runs.__setitem__)
    tracker.start_sweep(
        space_yaml="objectives: [{metric: validation/accuracy, direction: maximize}]\n",
        params={},
        provenance=Provenance.of_this_process(),
    )
    tracker.start_trial(
        0, name="000", params={"optimizer.lr": 0.1}, tags={}, datasets=lambda: [], config_json="{}"
    )
    tracker.log_epoch(0, epoch=1, metrics={"validation/accuracy": 0.5})
    tracker.finish_trial(0, state="complete", best={"validation/accuracy": 0.5})
    tracker.log_student(0, student)
    tracker.finish_sweep(status="FINISHED", metrics={}, leaderboard={"leaderboard.csv": "rank\n"})
    assert tracker.close()


def assert_recorded(uri: str, study: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    parent, child = sorted(
        client.search_runs([experiment.experiment_id]), key=lambda run: "trial" in run.data.tags
    )
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert child.data.metrics["best/validation/accuracy"] == 0.5
    assert {file.path for file in client.list_artifacts(child.info.run_id)} >= {"config.json", "student"}


@pytest.mark.usefixtures("user")
def test_a_sweep_is_recorded_by_who_has_the_password(server: MlflowServer, tmp_path: Path) -> None:
    home = Home.at(str(tmp_path / "home"), server.uri)
    (student := tmp_path / "student").mkdir()
    (student / "student.json").touch()
    assert check_tracker(home).ok
    record(home, "by-environment", student)
    assert_recorded(server.uri, "by-environment")
    for file in home.study("by-environment").root.iterdir():
        assert PASSWORD not in file.read_text()


def test_a_password_in_the_address_is_refused_and_not_repeated(server: MlflowServer, tmp_path: Path) -> None:
    uri = server.uri.replace("//", f"//admin:{PASSWORD}@")
    check = check_tracker(Home.at(str(tmp_path / "home"), uri))
    assert not check.ok
    assert check.finding == (
        f"MLflow at {uri.replace(PASSWORD, '***')} is given a password in its address, which would be kept "
        "and shown: set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
    )


@pytest.mark.usefixtures("nobody")
def test_who_names_no_user_is_told_what_to_set(server: MlflowServer, tmp_path: Path) -> None:
    check = check_tracker(Home.at(str(tmp_path), server.uri))
    assert not check.ok
    assert check.finding == (
        f"MLflow at {server.uri} wants a user and a password: set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD"
    )


@pytest.mark.usefixtures("user")
def test_who_has_the_wrong_password_is_told_what_to_set(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret-but-wrong")
    check = check_tracker(Home.at(str(tmp_path), server.uri))
    assert not check.ok
    assert check.finding == (
        f"MLflow at {server.uri} refuses this user and password: set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD"
    )


@pytest.mark.usefixtures("user")
def test_a_host_that_the_server_does_not_serve_is_told_with_what_allows_it(
    server: MlflowServer, tmp_path: Path
) -> None:
    check = check_tracker(Home.at(str(tmp_path), f"http://localhost:{server.port}"))
    assert not check.ok
    assert check.finding == (
        f"MLflow at http://localhost:{server.port} does not serve the host localhost:{server.port}: start it "
        f"with --allowed-hosts 'localhost:{server.port}'"
    )


@pytest.mark.parametrize("status", [200, 404])
def test_a_server_that_is_not_mlflow_is_told(status: int, tmp_path: Path) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html>a page</html>"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    other = HTTPServer(("127.0.0.1", 0), Page)
    serving = threading.Thread(target=other.serve_forever)
    serving.start()
    try:
        uri = f"http://127.0.0.1:{other.server_address[1]}"
        check = check_tracker(Home.at(str(tmp_path), uri))
    finally:
        other.shutdown()
        serving.join()
        other.server_close()
    assert not check.ok
    assert check.finding == f"MLflow at {uri} is no MLflow server: choose another with --tracking-uri"
