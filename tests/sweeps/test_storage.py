"""Optuna's storage as a file, a journal and a PostgreSQL server: what a study needs of each."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from distill.errors import InputError, RefusedError
from sweeps.home import Home, masked
from sweeps.space import SearchSpace, parse_space
from sweeps.storage import check_storage, open_storage, recorded_names, study_names
from sweeps.study import CONTINUES, create_study, fail_orphans, load_study, num_told
from tests.end_to_end.postgresql import Postgresql, running_postgresql

SPACE = """
name: tiny
objectives: [{metric: validation/verification_accuracy, direction: maximize}]
parameters:
  optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
search: {num_trials: 4, seed: 0}
"""
ANOTHER_DRIVER = """
import sys, optuna
from optuna.trial import TrialState
from sweeps.home import Home
from sweeps.space import parse_space
from sweeps.study import load_study
study = load_study(Home.at(sys.argv[1]), "tiny", parse_space(sys.argv[2], file="tiny.yaml"))
space = parse_space(sys.argv[2], file="tiny.yaml")
trial = study.ask()
space.sample(trial)
print(trial.number)
"""


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return parse_space(SPACE, file="tiny.yaml")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    with running_postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "journal", pytest.param("postgresql", marks=pytest.mark.slow)])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    match request.param:
        case "sqlite":
            return home_at(tmp_path / "home", None)
        case "journal":
            return home_at(tmp_path / "home", f"journal://{tmp_path}/shared/optuna.journal")
        case _:
            return home_at(tmp_path / "home", request.getfixturevalue("server").url())


def home_at(root: Path, storage: str | None, *, study: str = "tiny") -> Home:
    home = Home.at(str(root), storage=storage)
    home.ensure()
    folder = home.study(study)
    folder.root.mkdir()
    folder.space.write_text(SPACE)
    return home


@pytest.fixture
def study(home: Home, space: SearchSpace) -> Iterator[optuna.Study]:
    study = create_study(home, "tiny", space)
    yield study
    optuna.delete_study(study_name="tiny", storage=open_storage(home))


def begin(study: optuna.Study, space: SearchSpace) -> optuna.Trial:
    trial = study.ask()
    space.sample(trial)
    return trial


def test_a_study_goes_on_where_its_driver_left_it(
    home: Home, study: optuna.Study, space: SearchSpace
) -> None:
    assert study_names(home) == ["tiny"]
    done, orphan = begin(study, space), begin(study, space)
    study.tell(done, 0.75)

    resumed = load_study(home, "tiny", space)
    assert fail_orphans(resumed, retry=True) == [orphan.number]
    again = begin(resumed, space)
    assert again.params == orphan.params
    assert again.user_attrs[CONTINUES] == orphan.number
    assert num_told(resumed) == 1
    assert resumed.best_value == 0.75
    states = [trial.state for trial in resumed.get_trials(deepcopy=False)]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]


@pytest.mark.slow
def test_another_process_goes_on_with_a_study(
    home: Home, study: optuna.Study, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(study, space)
    monkeypatch.setenv("SWEEPS_STORAGE", home.optuna_url)
    command = [sys.executable, "-c", ANOTHER_DRIVER, str(home.root), SPACE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert [trial.number for trial in study.get_trials()] == [0, 1]


def test_a_study_of_another_home_is_not_this_homes(home: Home, study: optuna.Study, tmp_path: Path) -> None:
    other = home_at(tmp_path / "other", home.optuna_url, study="else")
    assert recorded_names(other) == ["tiny"]
    assert study_names(other) == []
    with pytest.raises(InputError, match=r"there is no study 'tiny' in .*: it has none yet"):
        load_study(other, "tiny")


def test_looking_for_studies_makes_no_file(tmp_path: Path) -> None:
    for storage in (None, f"journal://{tmp_path}/optuna.journal"):
        home = Home.at(str(tmp_path), storage=storage)
        assert study_names(home) == []
        assert check_storage(home).ok
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_server_that_was_started_again_is_found_again(server: Postgresql, tmp_path: Path) -> None:
    home = Home.at(str(tmp_path), storage=server.socket_url())
    assert recorded_names(home) == []
    server.stop()
    try:
        assert not check_storage(Home.at(str(tmp_path), storage=server.url() + "?application_name=1")).ok
    finally:
        server.start()
    assert recorded_names(home) == []


@pytest.mark.slow
def test_a_wrong_password_is_told_without_any(server: Postgresql, tmp_path: Path) -> None:
    url = f"postgresql+psycopg://sweeps:not-this@127.0.0.1:{server.port}/sweeps"
    check = check_storage(Home.at(str(tmp_path), storage=url))
    assert not check.ok
    assert f"sweeps:***@127.0.0.1:{server.port}/sweeps does not answer" in check.finding
    assert "password authentication failed" in check.finding
    assert "not-this" not in check.finding


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis", r"--storage must be sqlite:///FILE, postgresql\+psycopg://.*, got redis"),
        ("journal://here/file", "--storage must name a journal by its absolute path"),
        ("nosuch://u:secret@h/d", r"--storage nosuch://u:\*\*\*@h/d needs a driver that is not installed"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        open_storage(Home.at(str(tmp_path), storage=url))


def test_a_server_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    home = Home.at(str(tmp_path), storage="postgresql+psycopg://sweeps:secret@127.0.0.1:1/sweeps")
    with pytest.raises(RefusedError, match=r"sweeps:\*\*\*@127\.0\.0\.1:1/sweeps does not answer") as caught:
        open_storage(home)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:p@ss/w:rd@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("at http://me:secret@tracker does not answer", "at http://me:***@tracker does not answer"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("http://token@host", "http://***@host"),
        ("sqlite:////home/a@b/optuna.db", "sqlite:////home/a@b/optuna.db"),
        ("mail a@b about http://host/p", "mail a@b about http://host/p"),
        ("sqlite:////home/me/runs/optuna.db", "sqlite:////home/me/runs/optuna.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("journal:///shared/a:b@c.journal", "journal:///shared/a:b@c.journal"),
    ],
)
def test_a_password_is_never_shown(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_a_home_that_is_printed_tells_no_address(tmp_path: Path) -> None:
    home = Home.at(str(tmp_path), "http://me:secret@tracker", "postgresql+psycopg://me:secret@host/db")
    assert "secret" not in f"{home!r} {home}"
