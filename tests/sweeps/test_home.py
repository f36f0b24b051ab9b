"""Where things live, and who may drive a study."""

import os
import platform
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from distill.errors import InputError, RefusedError
from sweeps import home as homes
from sweeps.depot import Depot
from sweeps.home import Home, StudyFolder

DRIVE = """
import sys, time
from sweeps.home import Home
with Home.at(sys.argv[1]).study("one").driven():
    print("driving", flush=True)
    sys.stdin.read()
"""


def test_a_home_is_absolute_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Home.at("runs").root == tmp_path / "runs"


def test_an_argument_goes_before_the_environment_and_that_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWEEPS_HOME", raising=False)
    assert Home.at().root == tmp_path / "runs"
    monkeypatch.setenv("SWEEPS_HOME", str(tmp_path / "elsewhere"))
    assert Home.at().root == tmp_path / "elsewhere"
    assert Home.at(str(tmp_path / "here")).root == tmp_path / "here"


def test_mlflow_records_in_the_home_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Home.at(str(tmp_path)).tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert Home.at(str(tmp_path), "http://tracker:5000").tracking_uri == "http://tracker:5000"


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "a b", "x" * 65])
def test_a_study_has_a_name_that_is_safe_as_a_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="a study's name must be"):
        Home.at(str(tmp_path)).study(name)


def test_a_study_is_driven_by_one(tmp_path: Path) -> None:
    folder = Home.at(str(tmp_path)).study("one")
    assert folder.read_driver_pid() is None
    with folder.driven():
        assert folder.read_driver_pid() == os.getpid()
        with pytest.raises(RefusedError, match=f"driven by process {os.getpid()}"), folder.driven():
            pass
    assert folder.read_driver_pid() is None


def test_a_driver_that_died_leaves_no_lock(tmp_path: Path) -> None:
    folder = Home.at(str(tmp_path)).study("one")
    if (pid := os.fork()) == 0:
        with folder.driven():
            os._exit(9)
    os.waitpid(pid, 0)
    assert folder.read_driver_pid() is None
    with folder.driven():
        assert folder.read_driver_pid() == os.getpid()


def test_many_may_look_at_once_whether_a_study_is_driven(tmp_path: Path) -> None:
    folder = Home.at(str(tmp_path)).study("one")
    with folder.driven():
        pass
    seen: list[int | None] = []
    lookers = [threading.Thread(target=lambda: seen.extend(look(folder, 200))) for _ in range(4)]
    for looker in lookers:
        looker.start()
    for _ in range(50):  # and none of them is in a driver's way
        with folder.driven():
            pass
    for looker in lookers:
        looker.join()
    assert len(seen) == 800
    assert set(seen) <= {None, os.getpid()}


def look(folder: StudyFolder, times: int) -> list[int | None]:
    return [folder.read_driver_pid() for _ in range(times)]


def test_a_driver_says_where_it_runs_and_since_when(tmp_path: Path) -> None:
    folder = Home.at(str(tmp_path)).study("one")
    with folder.driven():
        driver = folder.read_driver()
        assert driver is not None
        assert (driver.host, driver.pid, driver.is_here) == (platform.node(), os.getpid(), True)
        assert str(driver) == f"process {os.getpid()} since {driver.since} UTC"
    assert folder.read_driver() is None


@pytest.mark.skipif(os.getuid() != 0, reason="a machine of another name takes root")
def test_a_driver_on_another_machine_is_named_with_it(tmp_path: Path) -> None:
    folder = Home.at(str(tmp_path)).study("one")
    named = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"]
    with subprocess.Popen(
        [*named, sys.executable, "-c", DRIVE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "driving\n"
        driver = folder.read_driver()
        assert driver is not None
        assert (driver.host, driver.pid, driver.is_here) == ("elsewhere", other.pid, False)
        with (
            pytest.raises(
                RefusedError,
                match=rf"driven by process {other.pid} on elsewhere since .* UTC: stop it first there with "
                "`sweeps stop one`",
            ),
            folder.driven(),
        ):
            pass
        other.communicate()
    assert folder.read_driver() is None


def test_of_a_home_in_a_store_its_studies_are_fetched_and_the_students_of_those_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Depot(f"file://{tmp_path / 'store'}", tmp_path / "there")
    for study in ("one", "two"):
        trial = left.root / "studies" / study / "trials" / "0000"
        (trial / "best").mkdir(parents=True)
        for path in (trial / "last.pt", trial / "best" / "student.json", trial.parents[1] / "space.yaml"):
            path.touch()
        left.push(trial)
        left.push(trial.parents[1], StudyFolder.is_space)
    monkeypatch.setattr(homes, "COPIES", tmp_path / "here")
    home = Home.at("s3://bucket/runs", TRACKER, DATABASE)
    monkeypatch.setattr(Home, "depot", property(lambda self: Depot(left.uri, self.root)))
    home.fetch(["two"])
    found = (path.relative_to(home.root) for path in home.root.rglob("*") if path.is_file())
    assert sorted(str(path) for path in found if not path.name.startswith(".")) == [
        "studies/one/space.yaml",
        "studies/two/space.yaml",
        "studies/two/trials/0000/best/student.json",
    ]


def test_a_place_for_copies_that_is_another_users_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setattr(homes, "COPIES", tmp_path / "link")
    with pytest.raises(RefusedError, match=r"link, where this machine works on s3://.* is another user's"):
        Home.at("s3://bucket/runs", TRACKER, DATABASE).fetch([])


TRACKER, DATABASE = "http://tracker:5000", "postgresql+psycopg://me:secret@db/optuna"


@pytest.mark.parametrize(
    "root", ["gs://bucket", "file:///runs", "s3://", "s3://bucket//runs", "s3://b/../runs", "s3://bucket?a=b"]
)
def test_a_home_that_is_no_folder_and_not_in_s3_is_refused(root: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"must be a folder or s3://BUCKET/PATH, got {root}")):
        Home.at(root, TRACKER, DATABASE)


def test_a_key_in_the_address_of_a_home_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="must be a folder or s3://BUCKET/PATH, got ") as refusal:
        Home.at("s3://key:hidden@bucket/runs", TRACKER, DATABASE)
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize(
    ("tracker", "database", "sentence"),
    [
        (TRACKER, None, "needs a PostgreSQL, .* set SWEEPS_STORAGE, .* got none"),
        (TRACKER, "sqlite:////runs/optuna.db", "needs a PostgreSQL, .* got sqlite:////runs/optuna.db"),
        (None, DATABASE, "needs MLflow's server, .* set MLFLOW_TRACKING_URI, .* got none"),
        ("sqlite:////runs/m.db", DATABASE, "needs MLflow's server, .* got sqlite:////runs/m.db"),
    ],
)
def test_a_home_in_a_store_needs_servers(
    tracker: str | None, database: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "SWEEPS_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=f"a home in a store {sentence}"):
        Home.at("s3://bucket/runs", tracker, database)


def test_a_home_in_a_store_has_one_folder_on_each_machine() -> None:
    home = Home.at("s3://bucket/runs/", TRACKER, DATABASE)
    assert home.address == "s3://bucket/runs"
    assert home.root == Path(f"/var/tmp/sweeps-{os.getuid()}/bucket/runs")
    assert home.depot is not None
    assert home.depot.uri_of(home.study("one").tune) == "s3://bucket/runs/studies/one/tune"
    assert home.study("one").lock is not None
    folder = Home.at("/runs", TRACKER, DATABASE)
    assert (folder.address, folder.depot, folder.study("one").lock) == ("/runs", None, None)


def test_optuna_records_in_the_home_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SWEEPS_STORAGE", raising=False)
    assert Home.at(str(tmp_path)).optuna_url == f"sqlite:///{tmp_path}/optuna.db"
    monkeypatch.setenv("SWEEPS_STORAGE", "journal:///there")
    assert Home.at(str(tmp_path)).optuna_url == "journal:///there"
    assert Home.at(str(tmp_path), storage="journal:///here").optuna_url == "journal:///here"


def test_probing_a_home_leaves_nothing_behind(tmp_path: Path) -> None:
    Home.at(str(tmp_path / "deep" / "home")).check_writable()
    assert list(tmp_path.iterdir()) == []


def test_a_home_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RefusedError, match="cannot be written"):
        Home.at(str(tmp_path / "file" / "home")).check_writable()
