"""Folders that go from machine to machine by an object store: one behind HTTP, and one of plain files."""

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from distill.errors import RefusedError
from sweeps import depot, node_probe
from sweeps.depot import LOCK, MARK, Depot


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture(params=["s3", "file"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "file":
        return f"file://{tmp_path / 'store'}"
    host = request.getfixturevalue("endpoint")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    client = boto3.client("s3", endpoint_url=f"http://{host}", region_name="us-east-1")
    client.create_bucket(Bucket=tmp_path.name.replace("_", "-"))
    return (
        f"s3://{tmp_path.name.replace('_', '-')}/runs?endpoint_override={host}&scheme=http&region=us-east-1"
    )


@pytest.fixture
def machines(uri: str, tmp_path: Path) -> tuple[Depot, Depot]:
    """Two machines, which have the home at one path each of their own: here that takes two paths."""
    return Depot(uri, tmp_path / "a"), Depot(uri, tmp_path / "b")


def write(folder: Path, **files: str) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def held(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_a_folder_that_one_machine_handed_on_is_the_same_on_another(machines: tuple[Depot, Depot]) -> None:
    a, b = machines
    write(a.root / "t", last_pt="one", best__student_json="{}")
    a.push(a.root / "t")
    b.pull(b.root / "t")
    assert held(b.root / "t") == {"last.pt": "one", "best/student.json": "{}"}
    write(b.root / "t", last_pt="two", previous_pt="one")
    (b.root / "t" / "best" / "student.json").unlink()
    b.push(b.root / "t")
    a.pull(a.root / "t")
    assert held(a.root / "t") == {"last.pt": "two", "previous.pt": "one"}


def test_what_a_machine_did_beyond_its_own_snapshot_is_left(machines: tuple[Depot, Depot]) -> None:
    a, _ = machines
    write(a.root / "t", last_pt="one")
    a.push(a.root / "t")
    write(a.root / "t", last_pt="two")
    a.pull(a.root / "t")
    assert held(a.root / "t") == {"last.pt": "two"}


def test_what_another_machine_went_on_to_takes_the_place_of_what_was_never_handed_on(
    machines: tuple[Depot, Depot],
) -> None:
    a, b = machines
    write(a.root / "t", last_pt="one")
    a.push(a.root / "t")
    write(a.root / "t", last_pt="lost")
    b.pull(b.root / "t")
    write(b.root / "t", notes_txt="kept")
    b.push(b.root / "t")
    a.pull(a.root / "t")
    assert held(a.root / "t") == {"last.pt": "one", "notes.txt": "kept"}


def test_only_what_is_wanted_is_taken_over_and_the_rest_later(machines: tuple[Depot, Depot]) -> None:
    a, b = machines
    write(a.root / "t", last_pt="large", best__student_json="{}")
    a.push(a.root / "t")
    b.pull(b.root / "t", wanted=lambda name: not name.endswith(".pt"))
    assert held(b.root / "t") == {"best/student.json": "{}"}
    b.pull(b.root / "t")
    assert held(b.root / "t") == {"last.pt": "large", "best/student.json": "{}"}


def test_what_is_dropped_is_gone_on_all_machines_and_its_objects_too(
    machines: tuple[Depot, Depot],
) -> None:
    a, b = machines
    write(a.root / "t", last_pt="one", previous_pt="one", best__student_json="{}")
    a.push(a.root / "t")
    b.pull(b.root / "t")
    a.drop(a.root / "t", lambda name: name.endswith(".pt"))
    assert held(a.root / "t") == {"best/student.json": "{}"}
    b.pull(b.root / "t")
    assert held(b.root / "t") == {"best/student.json": "{}"}
    a.drop(a.root / "t")
    assert a.folders(a.root) == []
    b.pull(b.root / "t")
    assert held(b.root / "t") == {}
    assert not (b.root / "t" / MARK).exists()


def test_the_folders_that_have_a_snapshot_are_told(machines: tuple[Depot, Depot]) -> None:
    a, b = machines
    for name in ("studies/one/trials/0001", "studies/one/trials/0000", "studies/two/trials/0000"):
        write(a.root / name, last_pt=name)
        a.push(a.root / name)
    assert b.folders(b.root / "studies" / "one") == [
        b.root / "studies" / "one" / "trials" / number for number in ("0000", "0001")
    ]
    assert b.folders(b.root / "studies" / "three") == []


def test_a_writer_that_is_killed_in_between_leaves_the_snapshot_before(
    machines: tuple[Depot, Depot], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = machines
    write(a.root / "t", last_pt="one", notes_txt="one")
    a.push(a.root / "t")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    write(a.root / "t", last_pt="two", notes_txt="two")
    monkeypatch.setattr(Depot, "_replace", killed)
    with pytest.raises(KeyboardInterrupt):
        a.push(a.root / "t")
    b.pull(b.root / "t")
    assert held(b.root / "t") == {"last.pt": "one", "notes.txt": "one"}


def test_what_is_no_longer_what_the_index_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depot, "PATIENCE_S", 0)
    a, b = (Depot(f"file://{tmp_path / 'store'}", tmp_path / name) for name in "ab")
    write(a.root / "t", last_pt="one")
    a.push(a.root / "t")
    index = json.loads((tmp_path / "store" / "t" / "index.json").read_text())
    (tmp_path / "store" / "t" / f"{index['files']['last.pt']}.pt").write_text("other")
    with pytest.raises(RefusedError, match=r"last\.pt of .* has sha256 .* its index says"):
        b.pull(b.root / "t")
    assert held(b.root / "t") == {}


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ("not JSON", "is not one"),
        ('{"id": "1"}', "is not one"),
        ('{"id": "1", "files": {"../last.pt": "0"}}', "names files outside of its folder"),
        ('{"id": "1", "files": {"/etc/passwd": "0"}}', "names files outside of its folder"),
    ],
)
def test_an_index_that_is_none_is_refused(
    index: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depot, "PATIENCE_S", 0)
    (tmp_path / "store" / "t").mkdir(parents=True)
    (tmp_path / "store" / "t" / "index.json").write_text(index)
    with pytest.raises(RefusedError, match=sentence):
        Depot(f"file://{tmp_path / 'store'}", tmp_path / "a").pull(tmp_path / "a" / "t")
    assert [path.name for path in (tmp_path / "a").rglob("*") if path.is_file()] == [LOCK]


def test_a_store_that_does_not_answer_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depot, "PATIENCE_S", 0)
    away = Depot("s3://bucket/runs?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1", tmp_path)
    write(tmp_path / "t", last_pt="one")
    with pytest.raises(RefusedError, match=r"the home s3://bucket/runs.* cannot be used: "):
        away.push(tmp_path / "t")


def test_a_store_that_is_away_for_a_while_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depot, "PAUSE_S", 0)
    store, away = Depot(f"file://{tmp_path / 'store'}", tmp_path / "a"), [OSError("timed out")] * 3
    look = Depot._snapshot

    def now_and_then(self: Depot, folder: Path) -> depot.Snapshot | None:
        if away:
            raise away.pop()
        return look(self, folder)

    monkeypatch.setattr(Depot, "_snapshot", now_and_then)
    write(tmp_path / "a" / "t", last_pt="one")
    store.push(tmp_path / "a" / "t")
    assert (away, store.names(tmp_path / "a" / "t")) == ([], {"last.pt"})


def test_a_full_disk_of_this_machine_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (Depot(f"file://{tmp_path / 'store'}", tmp_path / name) for name in "ab")
    write(a.root / "t", last_pt="one")
    a.push(a.root / "t")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(depot.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        b.pull(b.root / "t")


def test_a_file_is_taken_away_wherever_its_folder_begins(machines: tuple[Depot, Depot]) -> None:
    a, _ = machines
    write(a.root / "studies" / "t", last_pt="one", best__student_json="{}", best__student_safetensors="w")
    a.push(a.root / "studies" / "t")
    a.drop_path(a.root / "studies" / "t" / "best")
    assert a.names(a.root / "studies" / "t") == {"last.pt"}
    a.drop_path(a.root / "elsewhere" / "best")
    a.drop_path(a.root / "studies" / "t")
    assert a.folders(a.root) == []


def test_what_others_put_into_the_store_is_measured_and_cleared(tmp_path: Path) -> None:
    home = Depot(f"file://{tmp_path / 'store'}", tmp_path / "a")
    assert home.size(tmp_path / "a" / "tune") == 0
    home.clear(tmp_path / "a" / "tune")
    (tmp_path / "store" / "tune" / "trials").mkdir(parents=True)
    (tmp_path / "store" / "tune" / "trials" / "state.json").write_text("12345")
    assert home.size(tmp_path / "a" / "tune") == 5
    home.clear(tmp_path / "a" / "tune")
    assert not (tmp_path / "store" / "tune").exists()


def test_a_node_that_does_not_see_the_store_says_so(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    seen = node_probe.SharedFile(path=f"file://{tmp_path / 'store' / 'asked'}", content="content")
    assert node_probe.home("n", seen) == "is not there, or is a folder of the node's own"
    node_probe.write(seen.path, "other")
    assert node_probe.home("n", seen) == "holds another file"
    node_probe.write(seen.path, "content")
    assert node_probe.home("n", seen) is None
    assert node_probe.read(seen.answer("n")) == "content"
    assert node_probe.keeps_locks(seen)
