"""Where things live, and who may drive a study."""

import os
from pathlib import Path

import pytest

from distill.errors import InputError, RefusedError
from sweeps.home import Home


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


def test_probing_a_home_leaves_nothing_behind(tmp_path: Path) -> None:
    Home.at(str(tmp_path / "deep" / "home")).check_writable()
    assert list(tmp_path.iterdir()) == []


def test_a_home_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RefusedError, match="cannot be written"):
        Home.at(str(tmp_path / "file" / "home")).check_writable()
