"""A student on its way to production: refused, promoted, replaced, taken back, cut off, copied and loaded."""

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mlflow import MlflowClient
from optuna.trial import TrialState

from distill.checkpoint import BEST, load_student
from distill.models import load_model
from sweeps.cli import main
from sweeps.registry import Registry
from tests.end_to_end.machine import BIN
from tests.sweeps.promotion.finished import ACCURACY, COMMIT, MODEL, STUDY, Finished

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BENCHMARK = "benchmark/verification_accuracy"
BETTER = f"{{metric: {BENCHMARK}, better_than_champion_by: 0.002}}"
BLIND, FIRST, SECOND, OPEN, FAILED = range(5)
"""One that takes everybody for the same person, two that see a little, and two that cannot be promoted."""


@dataclass(frozen=True)
class Place:
    """The home of a finished study."""

    study: Finished

    def sweeps(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs `sweeps` on the home."""
        return subprocess.run(
            [str(BIN / "sweeps"), *arguments, "--home", str(self.study.home.root)],
            capture_output=True,
            text=True,
            env=surroundings() | environment,
            timeout=300,
        )

    def done(self, *arguments: str, **environment: str) -> str:
        """What a command that succeeds prints."""
        done = self.sweeps(*arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def promote(self, trial: int, *arguments: str) -> dict[str, Any]:
        return json.loads(self.done("promote", STUDY, "--trial", str(trial), "--json", *arguments))

    @property
    def aliases(self) -> dict[str, str]:
        found = self.study.client.get_registered_model(MODEL).aliases
        return {alias: str(version) for alias, version in found.items()}

    def faces(self) -> np.ndarray:
        rng = np.random.default_rng(1)
        return rng.uniform(-1, 1, (3, 3, 16, 16)).astype(np.float32)

    def embeddings(self, trial: int) -> np.ndarray:
        """Of `faces`, by the student of a trial."""
        student, _ = load_student(self.study.home.study(STUDY).trial(trial) / BEST)
        with torch.inference_mode():
            return student(torch.from_numpy(self.faces())).numpy()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A study that has ended. Copy it, don't change it."""
    study = Finished.at(tmp_path_factory.mktemp("promotion") / "home")
    study.add({ACCURACY: 0.5}, blind=True)
    study.add({ACCURACY: 0.7}, seed=1)
    study.add({ACCURACY: 0.6}, seed=2)
    study.add({ACCURACY: 0.4}, run_status="RUNNING")
    study.add({ACCURACY: 0.4}, seed=None, state=TrialState.FAIL, run_status="FAILED")
    return study


def surroundings() -> dict[str, str]:
    """The environment, less the address that MLflow puts there when this process loads a model."""
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}


@pytest.fixture
def place(prepared: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Place(prepared.copied(tmp_path / "home"))


# ---- gates -------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_table_of_gates_and_changes_nothing(place: Place) -> None:
    before = place.study.state()
    gates = [
        f"{BENCHMARK} >= 0.4",
        f"{{metric: {BENCHMARK}, share_of_teacher_at_least: 0.5}}",
        BETTER,
        "{no_group_below: 0.4}",
        "efficiency/faces_per_second_batch_1 >= 1",
        "export/onnx_bytes <= 10_000_000",
        "export/onnx_min_cosine >= 0.9999",
    ]
    told = [part for gate in gates for part in ("--gate", gate)]
    head, titles, *rows = place.done("promote", STUDY, "--dry-run", *told).splitlines()
    assert head == f"trial {FIRST} of {STUDY}, first by {ACCURACY}"
    assert titles.split() == ["gate", "limit", "measured", "verdict"]
    assert len(rows) == 1 + len(gates)
    assert all(row[titles.index("verdict") :].startswith("passed") for row in rows)
    assert "there is no champion yet" in rows[3]
    assert socket.gethostname() in rows[5]
    refused = place.sweeps("promote", STUDY, "--dry-run", "--json", "--gate", f"{BENCHMARK} >= 0.99")
    assert refused.returncode == 3
    document = json.loads(refused.stdout)
    assert not document["passed"]
    assert [gate["passed"] for gate in document["gates"]] == [True, False]
    assert place.study.state() == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--gate", f"{BENCHMARK} >= 0.99"), 3, f"gate {BENCHMARK} at least 0.99 failed with 0.5"),
        (("--gate", "export/onnx_bytes <= 1000"), 3, "gate export/onnx_bytes at most 1,000 failed with "),
        (("--trial", str(OPEN), "--gate", f"{BENCHMARK} >= 0"), 3, f"trial {OPEN} of {STUDY} is still open"),
        (("--trial", str(FAILED)), 2, f"trial {FAILED} is failed: only a complete or pruned one"),
        (("--gate", "benchmark/eeer <= 1"), 2, "got 'benchmark/eeer'; did you mean benchmark/eer?"),
        (("--alias", "latest"), 2, "promotion.alias must be of letters"),
        (("--choose", "knee"), 2, "promotion.choose must not be knee where there is one objective only"),
        (("--to", "http://127.0.0.1:9"), 3, "no MLflow server answers at http://127.0.0.1:9"),
    ],
)
def test_a_refusal_leaves_registry_runs_and_files_as_they_were(
    place: Place, arguments: tuple[str, ...], code: int, said: str
) -> None:
    before = place.study.state()
    command = ["promote", STUDY, *arguments, "--home", str(place.study.home.root)]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, said in done.stderr) == (code, True), done.output
    assert place.study.state() == before


# ---- registry ----------------------------------------------------------------------------------------------


def test_a_promoted_version_says_everything_about_itself(place: Place) -> None:
    runs_before = place.study.state()[1]
    done = place.sweeps("promote", STUDY, "--why", "the first one", "--gate", "{no_group_below: 0.4}")
    assert done.returncode == 0
    assert "hint" not in done.stderr.lower()
    assert "input example" not in done.stderr
    client = place.study.client
    version = client.get_model_version_by_alias(MODEL, "champion")
    assert version.run_id is not None
    run = client.get_run(version.run_id)
    expected = {
        "study": STUDY,
        "trial": str(FIRST),
        "run": version.run_id,
        "why": "the first one",
        "commit": COMMIT,
        "chosen": f"first by {ACCURACY}",
        "state": "complete",
        "teacher_digest": "b" * 64,
    }
    assert version.tags.items() >= expected.items()
    assert version.tags["promoted_by"].endswith(f"@{socket.gethostname()}")
    assert version.tags.keys() >= {"promoted_at", "sha256", "training_digest", "benchmark_digest"}
    gates = json.loads(version.tags["gates"])
    assert [gate["passed"] for gate in gates] == [True, True]
    assert f"passed with {gates[0]['value']:.6g}" in version.tags[f"gate.{BENCHMARK}"]
    assert (version.description or "").startswith(f"# {MODEL}\n")
    # The run has what the benchmark says, and stays as it ended.
    assert run.data.metrics[BENCHMARK] == pytest.approx(gates[0]["value"])
    assert [run.info.status, run.info.end_time] == runs_before[version.run_id][:2]
    assert run.outputs is not None
    (output,) = run.outputs.model_outputs
    assert version.source == f"models:/{output.model_id}"
    mlflow.set_tracking_uri(place.study.home.tracking_uri)
    model = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion")
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 3, 16, 16)
    assert model.metadata.signature.outputs.inputs[0].shape == (-1, 32)
    assert model.predict(model.input_example).shape == (1, 32)
    (logged,) = client.search_logged_models([run.info.experiment_id])
    files = {path.name for path in Path(logged.artifact_location.removeprefix("file://")).rglob("*")}
    assert files >= {"student.safetensors", "student.json", "student.onnx", "MODEL_CARD.md"}
    assert "__pycache__" not in files


def test_a_worse_one_is_refused_a_better_one_promoted_and_taken_back(place: Place) -> None:
    assert place.promote(BLIND, "--gate", BETTER)["version"] == "1"
    assert place.promote(FIRST, "--gate", BETTER, "--why", "it sees")["version"] == "2"
    assert place.aliases == {"champion": "2", "previous": "1"}
    before = place.study.state()
    worse = place.sweeps("promote", STUDY, "--trial", str(BLIND), "--gate", BETTER)
    assert worse.returncode == 3
    assert "better than the champion's by 0.002 failed with -0." in worse.stderr
    assert "over people, against version 2" in worse.stderr
    assert place.study.state() == before
    tolerated = f"{{metric: {BENCHMARK}, not_worse_than_champion_by: 0.9}}"
    assert place.promote(SECOND, "--gate", tolerated)["version"] == "3"
    said = place.done("rollback", MODEL, "--why", "blurred")
    assert said == f"models:/{MODEL}@champion is version 2 again, it was version 3\n"
    assert place.aliases == {"champion": "2", "previous": "3"}
    mlflow.set_tracking_uri(place.study.home.tracking_uri)
    served = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion").predict(place.faces())
    np.testing.assert_allclose(served, place.embeddings(FIRST), atol=1e-5)
    table = place.done("models", MODEL).splitlines()
    assert [row.split()[1:3] for row in table[1:]] == [["3", "previous"], ["2", "champion"], ["1", "2/2"]]
    (latest, *_) = json.loads(place.done("models", "--json"))
    assert latest["tags"]["rolled_back"].endswith("blurred")


def test_a_promotion_that_is_killed_leaves_an_alias_that_serves(place: Place, tmp_path: Path) -> None:
    """Killed at random, and as soon as the database shows that a step was taken."""
    place.promote(BLIND)
    rng, num_versions = random.Random(0), []
    moments = [
        shows("SELECT COUNT(*) FROM logged_models"),
        shows("SELECT COUNT(*) FROM model_versions"),
        shows("SELECT COUNT(*) FROM model_versions"),
        shows("SELECT COUNT(*) FROM registered_model_aliases"),
        shows("SELECT version FROM registered_model_aliases WHERE alias = 'champion'"),
        after(rng.uniform(2, 6)),
        after(rng.uniform(6, 12)),
    ]
    for index, moment in enumerate(moments):
        cut_off = Place(place.study.copied(tmp_path / f"home-{index}"))
        kill_when(moment, cut_off.study.home.root)
        num_versions.append(num_after_the_kill(cut_off))
    assert 1 in num_versions
    assert 2 in num_versions


def num_after_the_kill(place: Place) -> int:
    """Checks that the champion serves and nothing else pretends to; tells how many versions there are."""
    champion = place.aliases["champion"]
    mlflow.set_tracking_uri(place.study.home.tracking_uri)
    model = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion")
    expected = place.embeddings(BLIND if champion == "1" else FIRST)
    np.testing.assert_allclose(model.predict(place.faces()), expected, atol=1e-5)
    described = place.study.client.get_model_version_by_alias(MODEL, "champion")
    assert (described.description or "").startswith(f"# {MODEL}\n")
    assert described.tags.keys() >= {"gates", "sha256", "promoted_at"}
    versions = Registry(place.study.home.tracking_uri).versions(MODEL)
    for version in versions:
        assert version.state == ("complete" if version.aliases else "incomplete")
    return len(versions)


def kill_when(moment: Callable[[Path], bool], home: Path) -> None:
    command = [str(BIN / "sweeps"), "promote", STUDY, "--trial", str(FIRST), "--home", str(home)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=surroundings()
    )
    deadline = time.monotonic() + 200
    while process.poll() is None and not moment(home) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def shows(query: str) -> Callable[[Path], bool]:
    """The moment when a number out of MLflow's database is 2, read beside the process that writes it."""

    def has_come(home: Path) -> bool:
        with closing(sqlite3.connect(f"file:{home / 'mlflow.db'}?mode=ro", uri=True)) as database:
            try:
                return database.execute(query).fetchone()[0] == 2
            except sqlite3.OperationalError:  # it is being written
                return False

    return has_come


def after(seconds: float) -> Callable[[Path], bool]:
    """A moment so long after it was first asked for."""
    began: list[float] = []

    def has_come(home: Path) -> bool:
        began.append(time.monotonic())
        return began[-1] - began[0] > seconds

    return has_come


# ---- another server ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """An MLflow server that asks for a password and answers by one name only."""

    port: int

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"


ADMIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "correct horse battery"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{folder / 'auth.db'}\n"
        f"admin_username = admin\nadmin_password = {ADMIN['MLFLOW_TRACKING_PASSWORD']}\n"
    )
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--allowed-hosts", f"127.0.0.1:{port}"]
    environment = {
        **surroundings(),
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test alone",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 200
            while not answers(port):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.3)
            yield Server(port)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_student_is_copied_to_another_server_with_its_lineage(
    place: Place, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = place.study.state()
    document = json.loads(
        place.done("promote", STUDY, "--to", server.uri, "--why", "released", "--json", **ADMIN)
    )
    assert (document["version"], document["registry"]) == ("1", server.uri)
    again = place.sweeps(
        "promote", STUDY, "--trial", str(BLIND), "--to", server.uri, "--gate", BETTER, **ADMIN
    )
    assert again.returncode == 3
    assert "over people, against version 1" in again.stderr
    assert place.study.state() == before
    assert place.done("models", MODEL, "--tracking-uri", server.uri, **ADMIN).splitlines()[1].split()[
        1:3
    ] == [
        "1",
        "champion",
    ]
    for name, value in ADMIN.items():
        monkeypatch.setenv(name, value)
    version = MlflowClient(server.uri).get_model_version_by_alias(MODEL, "champion")
    assert version.tags["tracking_uri"] == place.study.home.tracking_uri
    assert version.tags["run"] in before[1]
    assert version.tags["study"] == STUDY
    mlflow.set_tracking_uri(server.uri)
    served = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion").predict(place.faces())
    np.testing.assert_allclose(served, place.embeddings(FIRST), atol=1e-5)


@pytest.mark.parametrize(
    ("host", "environment", "said"),
    [
        ("127.0.0.1", {}, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("127.0.0.1", {**ADMIN, "MLFLOW_TRACKING_PASSWORD": "wrong"}, "set MLFLOW_TRACKING_USERNAME and"),
        ("localhost", ADMIN, "start it with --allowed-hosts and the name that it is reached by"),
    ],
)
def test_a_server_that_refuses_is_told_in_one_sentence(
    place: Place, server: Server, host: str, environment: dict[str, str], said: str
) -> None:
    before = place.study.state()
    done = place.sweeps("promote", STUDY, "--to", f"http://{host}:{server.port}", **environment)
    assert done.returncode == 3, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert place.study.state() == before


# ---- loading -----------------------------------------------------------------------------------------------


def test_the_documented_python_loads_what_was_promoted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.promote(FIRST)
    monkeypatch.setenv("SWEEPS_HOME", str(place.study.home.root))
    mlflow.set_tracking_uri(place.study.home.tracking_uri)
    page = (ROOT / "docs" / "promotion.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in page.split("```python\n")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        assert len([line for line in block.splitlines() if line]) <= 3
        known: dict[str, Any] = {"images": place.faces(), "torch": torch}
        exec(block.replace("face-student", MODEL), known)
        embeddings = known["embeddings"]
        if isinstance(embeddings, torch.Tensor):
            embeddings = embeddings.detach().numpy()
        np.testing.assert_allclose(embeddings, place.embeddings(FIRST), atol=1e-5)
    assert load_model(f"models:/{MODEL}@champion").size_px == 16


def test_the_documented_command_embeds_faces_from_a_file(place: Place, tmp_path: Path) -> None:
    place.promote(FIRST)
    page = (ROOT / "docs" / "promotion.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if "mlflow models predict" in line)
    faces = tmp_path / "faces.json"
    faces.write_text(json.dumps({"inputs": place.faces().tolist()}))
    arguments = line.replace("face-student", MODEL).replace("faces.json", str(faces)).split()[1:]
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=surroundings() | {"MLFLOW_TRACKING_URI": place.study.home.tracking_uri},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    predicted = json.loads(done.stdout[done.stdout.index("{") :])["predictions"]
    np.testing.assert_allclose(np.array(predicted), place.embeddings(FIRST), atol=1e-4)
