"""Claims of the shipped specialists."""

import hashlib
from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from distill.errors import TeacherError
from distill.evaluation import evaluate_verification
from distill.faces import EmbeddedFacesSettings, VerificationPairs
from distill.faces.factors import GROUPS as WORLD_GROUPS
from distill.teachers import AnyTeacherSettings, SpecialistTeacherSettings, Teacher, specialist
from distill.teachers.specialist import SHIPPED_FOLDER, Group

GROUPS: tuple[Group, ...] = get_args(Group)


def weights_of(group: Group) -> Path:
    return SHIPPED_FOLDER / f"specialist_{group}.safetensors"


@pytest.fixture(scope="module")
def teachers() -> dict[Group, Teacher]:
    return {group: SpecialistTeacherSettings(group=group).load() for group in GROUPS}


@pytest.fixture(scope="module")
def validation() -> VerificationPairs:
    return EmbeddedFacesSettings(size_px=32).validation_pairs()


def test_every_group_of_the_world_has_a_specialist() -> None:
    assert tuple(group.name for group in WORLD_GROUPS) == GROUPS


@pytest.mark.parametrize("group", GROUPS)
def test_the_card_names_the_shipped_file(teachers: dict[Group, Teacher], group: Group) -> None:
    teacher = teachers[group]
    assert teacher.digest == hashlib.sha256(weights_of(group).read_bytes()).hexdigest()
    assert teacher.name == teacher.card["name"] == f"specialist_{group}"
    assert group in teacher.card["data"]
    assert teacher.card["command"].endswith(f"--specialist {group} --seed 0")


@pytest.mark.parametrize("group", GROUPS)
def test_the_settings_and_the_card_know_its_shape(teachers: dict[Group, Teacher], group: Group) -> None:
    settings, teacher = SpecialistTeacherSettings(group=group), teachers[group]
    assert teacher(torch.zeros(2, 3, 48, 48)).shape == (2, settings.embedding_dim)
    assert teacher.embedding_dim == settings.embedding_dim == teacher.card["embedding_dim"]
    assert teacher.input_px == settings.input_px == teacher.card["input_px"]


@pytest.mark.parametrize("group", GROUPS)
def test_a_specialist_was_trained_on_the_world_that_ships_with_it(
    teachers: dict[Group, Teacher], group: Group
) -> None:
    faces = EmbeddedFacesSettings(domain="authentic", size_px=32).generator()
    assert teachers[group].card["data_digest"] == faces.digest


def test_the_shipped_files_are_small() -> None:
    sizes = [weights_of(group).stat().st_size for group in GROUPS]
    assert max(sizes) < 1_000_000
    assert sum(sizes) < 3_000_000


@pytest.mark.parametrize("group", GROUPS)
def test_a_specialist_is_as_good_as_its_card_says(
    teachers: dict[Group, Teacher], validation: VerificationPairs, group: Group
) -> None:
    metrics = evaluate_verification(teachers[group], validation, prefix="validation")
    on_card = teachers[group].card["metrics"]
    for name, value in metrics.items():
        # One of a group's 800 pairs may fall to the other side of a threshold on another processor.
        tolerance = 5e-3 if "_group_" in name else 1e-3
        assert value == pytest.approx(on_card[name], abs=tolerance), name


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("pairs", ["validation", "benchmark"])
def test_nobody_knows_a_group_better_than_its_specialist(
    teachers: dict[Group, Teacher], group: Group, pairs: str
) -> None:
    metric = f"{pairs}/verification_accuracy_{group}"
    accuracies = {name: teacher.card["metrics"][metric] for name, teacher in teachers.items()}
    assert max(accuracies, key=accuracies.__getitem__) == group, accuracies


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / weights_of("group_a").name
    path.write_bytes(weights_of("group_a").read_bytes()[:-1000])
    path.with_suffix(".json").write_bytes(weights_of("group_a").with_suffix(".json").read_bytes())
    monkeypatch.setattr(specialist, "SHIPPED_FOLDER", tmp_path)
    with pytest.raises(TeacherError, match="is cut short"):
        SpecialistTeacherSettings(group="group_a").load()


def test_a_trial_chooses_it_by_name_and_group() -> None:
    adapter = TypeAdapter(AnyTeacherSettings)
    chosen = adapter.validate_python({"name": "specialist", "group": "group_c"})
    assert chosen == SpecialistTeacherSettings(group="group_c")
    with pytest.raises(ValidationError, match="group_a"):
        adapter.validate_python({"name": "specialist", "group": "group_e"})
