"""Where code came from, in checkouts and installations made for the test."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sweeps.provenance
from sweeps.provenance import Provenance


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository that holds a copy of the module, committed."""
    (tmp_path / "sweeps").mkdir()
    shutil.copy(sweeps.provenance.__file__, tmp_path / "sweeps" / "provenance.py")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def looked_at(monkeypatch: pytest.MonkeyPatch, root: Path) -> Provenance:
    """What the module says of itself when it lies in another place."""
    spec = importlib.util.spec_from_file_location("there", root / "sweeps" / "provenance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "there", module)
    spec.loader.exec_module(module)
    return module.Provenance.of_this_process()


def test_a_clean_checkout_is_its_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked_at(monkeypatch, checkout)
    assert (found.commit, found.difference) == (git(checkout, "rev-parse", "HEAD"), "")
    assert found.tags()["uncommitted"] == "false"
    assert "uncommitted_digest" not in found.tags()
    assert found.difference_file() == {}


def test_the_difference_makes_the_same_tree_of_the_commit_again(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (checkout / "sweeps" / "provenance.py").open("a") as file:
        file.write("\nCHANGED = True\n\n")
    (checkout / "sweeps" / "new.py").write_text("NEW = 'é'\n")
    (checkout / "weights.bin").write_bytes(bytes(100))
    found = looked_at(monkeypatch, checkout)
    assert found.tags()["uncommitted"] == "true"
    ((name, difference),) = found.difference_file().items()
    assert name == f"uncommitted/{found.tags()['uncommitted_digest']}.diff"

    again = tmp_path_factory.mktemp("again")
    git(again, "clone", "-q", str(checkout), ".")
    (again / "difference").write_text(difference)
    git(again, "apply", "difference")
    for file in ("provenance.py", "new.py"):
        assert (again / "sweeps" / file).read_bytes() == (checkout / "sweeps" / file).read_bytes()


def test_a_package_that_is_installed_inside_another_checkout_has_no_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = checkout / ".venv" / "lib"
    shutil.copytree(checkout / "sweeps", installed / "sweeps")
    (checkout / ".gitignore").write_text(".venv\n")
    found = looked_at(monkeypatch, installed)
    assert (found.commit, found.difference) == (None, "")
    assert "mlflow.source.git.commit" not in found.tags()


def test_the_environment_has_the_versions_that_decide_numbers() -> None:
    environment = Provenance.of_this_process().environment()
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "ray", "optuna", "mlflow"} <= environment.keys()


def test_a_command_line_keeps_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["/bin/sweeps", "run", "--tracking-uri", "https://me:s3cret@host:5000/x"]
    )
    assert Provenance.of_this_process().command == "sweeps run --tracking-uri https://me:***@host:5000/x"
