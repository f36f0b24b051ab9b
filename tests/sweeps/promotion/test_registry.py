"""What an alias points to is whole, can be moved back, and is told with its gates."""

import json
import sqlite3
import time
from pathlib import Path

import pytest

from distill.errors import InputError, RefusedError
from sweeps.home import Home
from sweeps.promotion.tables import aligned, version_table
from sweeps.registry import (
    ABANDONED_S,
    GATES,
    STATE,
    Registry,
    fetch_student,
)

GATE = {
    "gate": "benchmark/eer at most 0.1",
    "metric": "benchmark/eer",
    "value": 0.05,
    "passed": True,
    "note": "",
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    root = tmp_path_factory.mktemp("registry")
    return Registry(f"sqlite:///{root / 'mlflow.db'}")


@pytest.fixture
def model(registry: Registry, request: pytest.FixtureRequest) -> str:
    """A registered model of the test's own."""
    name = request.node.name.partition("[")[0]
    registry.client.create_registered_model(name)
    return name


def add(registry: Registry, model: str, *, state: str = "complete", alias: str | None = None) -> str:
    """Registers a version as a promotion does."""
    tags = {STATE: state, "study": "small", "trial": "7", GATES: json.dumps([GATE])}
    version = str(registry.client.create_model_version(model, source="nowhere", tags=tags).version)
    if alias:
        registry.move(model, alias, version)
    return version


def test_a_moved_alias_leaves_its_former_version_as_previous(registry: Registry, model: str) -> None:
    add(registry, model, alias="champion")
    assert registry.aliases(model) == {"champion": "1"}
    add(registry, model, alias="champion")
    assert registry.aliases(model) == {"champion": "2", "previous": "1"}
    add(registry, model, alias="staging")
    add(registry, model, alias="staging")
    assert registry.aliases(model) == {
        "champion": "2",
        "previous": "1",
        "staging": "4",
        "previous-staging": "3",
    }


def test_a_rollback_swaps_the_two_and_says_so(registry: Registry, model: str) -> None:
    add(registry, model, alias="champion")
    add(registry, model, alias="champion")
    moved = registry.roll_back(model, alias="champion", why="blurred faces")
    assert str(moved) == f"models:/{model}@champion is version 1 again, it was version 2"
    assert registry.aliases(model) == {"champion": "1", "previous": "2"}
    left = registry.client.get_model_version(model, "2").tags["rolled_back"]
    assert left.startswith("to version 1 by ")
    assert left.endswith(": blurred faces")
    registry.roll_back(model, alias="champion")
    assert registry.aliases(model) == {"champion": "2", "previous": "1"}


def test_a_rollback_may_lead_to_any_whole_version(registry: Registry, model: str) -> None:
    for _ in range(3):
        add(registry, model, alias="champion")
    assert registry.roll_back(model, alias="champion", to="1").left == "3"
    assert registry.aliases(model) == {"champion": "1", "previous": "3"}


def test_a_rollback_without_a_former_version_is_refused(registry: Registry, model: str) -> None:
    add(registry, model, alias="champion")
    with pytest.raises(RefusedError, match="is version 1, and there is no former one to go back to"):
        registry.roll_back(model, alias="champion")
    with pytest.raises(RefusedError, match="no former one"):
        registry.roll_back(model, alias="champion", to="1")
    with pytest.raises(InputError, match="has no version 9: it has 1"):
        registry.roll_back(model, alias="champion", to="9")
    with pytest.raises(InputError, match="has no alias 'prod': it has champion"):
        registry.roll_back(model, alias="prod")
    assert registry.aliases(model) == {"champion": "1"}


def test_a_rollback_does_not_lead_to_what_was_cut_off(registry: Registry, model: str) -> None:
    add(registry, model, alias="champion")
    add(registry, model, state="incomplete")
    with pytest.raises(RefusedError, match=r"version 2 of .* is incomplete: its promotion was cut off"):
        registry.roll_back(model, alias="champion", to="2")


def test_an_unknown_model_is_the_users_mistake(registry: Registry, model: str) -> None:
    with pytest.raises(InputError, match=f"no model 'nobody' is registered .*{model}"):
        registry.versions("nobody")
    with pytest.raises(InputError, match="no model 'nobody' is registered"):
        registry.roll_back("nobody", alias="champion")
    assert registry.aliases("nobody") == {}


def test_a_name_with_a_quote_is_a_name(registry: Registry) -> None:
    registry.client.create_registered_model("anna's")
    add(registry, "anna's", alias="champion")
    (found,) = registry.versions("anna's")
    assert found.aliases == ("champion",)


def test_versions_are_told_with_aliases_and_gates_the_newest_first(registry: Registry, model: str) -> None:
    add(registry, model, alias="champion")
    add(registry, model, state="incomplete")
    newest, first = registry.versions(model)
    assert (newest.version, newest.state, newest.aliases) == ("2", "incomplete", ())
    assert (first.version, first.state, first.aliases) == ("1", "complete", ("champion",))
    assert first.gates == [GATE]
    assert first.document()["tags"] == {"study": "small", "trial": "7"}
    assert abs(first.registered_at - time.time()) < 60
    head, *rows = version_table([newest, first], now=first.registered_at + 3 * 86_400).splitlines()
    assert head.split() == ["model", "version", "alias", "gates", "study", "trial", "age"]
    assert rows[0].split()[1:] == ["2", "(incomplete)", "1/1", "passed", "small", "7", "3", "days"]
    assert rows[1].split()[2] == "champion"


def test_only_an_old_version_without_an_alias_is_cleared_up(registry: Registry, model: str) -> None:
    add(registry, model, alias="champion")
    add(registry, model, state="incomplete", alias="champion")  # cut off after its last move
    old, young = add(registry, model, state="incomplete"), add(registry, model, state="incomplete")
    made_older(registry, model, old)
    registry.clear_up(model)
    left = {found.version: found.tags[STATE] for found in registry.versions(model)}
    assert left == {"1": "complete", "2": "complete", young: "incomplete"}
    registry.clear_up("nobody")


def made_older(registry: Registry, model: str, version: str) -> None:
    with sqlite3.connect(registry.uri.removeprefix("sqlite:///")) as database:
        database.execute(
            "UPDATE model_versions SET creation_time = creation_time - ? WHERE name = ? AND version = ?",
            (1000 * (ABANDONED_S + 1), model, version),
        )


def test_a_version_of_others_is_shown_and_left_alone(registry: Registry, model: str) -> None:
    registry.client.create_model_version(model, source="nowhere")
    registry.clear_up(model)
    (found,) = registry.versions(model)
    assert (found.state, found.gates) == ("", [])
    assert version_table([found]).splitlines()[1].split()[2] == "none"


def test_an_empty_home_has_nothing_registered_and_no_database_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPS_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="nothing is registered yet, since there is no database"):
        fetch_student("models:/face-student@champion")
    with pytest.raises(InputError, match="nothing is registered yet"):
        Registry.of(Home.at())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "mlflow:5000", "/data", "https://"])
def test_another_registry_is_a_server(uri: str) -> None:
    with pytest.raises(InputError, match="--to must be the address of an MLflow server"):
        Registry.on_server(uri)


def test_a_server_that_does_not_answer_is_refused_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(RefusedError, match=r"no MLflow server answers at http://anna:\*\*\*@127\.0\.0\.1:9 "):
        Registry.on_server("http://anna:secret@127.0.0.1:9")
    assert time.monotonic() - began < 5


def test_a_refusal_does_not_show_a_password() -> None:
    unknown = Registry("unknown://anna:se@cret@mlflow.example")
    with pytest.raises(InputError, match=r"in unknown://anna:\*\*\*@mlflow\.example ") as told:
        unknown.fetch("models:/face-student@champion")
    assert "cret" not in str(told.value)


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert aligned([("a", "bbb", ""), ("aaa", "b", "c")], right=(1,)) == "a    bbb\naaa    b  c"
