"""Claims of the student that teaches."""

from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from distill.checkpoint import CARD, WEIGHTS, StudentCard, save_student
from distill.errors import TeacherError
from distill.students import BridgeTinySettings
from distill.teachers import AnyTeacherSettings, DistilledTeacherSettings

FACES = torch.rand(3, 3, 16, 16) * 2 - 1


def save(folder: Path) -> tuple[torch.nn.Module, StudentCard]:
    torch.manual_seed(0)
    settings = BridgeTinySettings()
    student = settings.build(embedding_dim=24, size_px=16).eval()
    card = save_student(
        student,
        folder,
        student=settings,
        embedding_dim=24,
        size_px=16,
        epoch=1,
        metrics={"validation/eer": 0.1},
        teacher_digest="abc",
    )
    return student, card


def test_the_student_teaches_what_it_learned(tmp_path: Path) -> None:
    student, card = save(tmp_path / "best")
    teacher = DistilledTeacherSettings(folder=tmp_path / "best").load()
    with torch.no_grad():
        assert torch.equal(teacher(FACES), student(FACES))
    assert (teacher.embedding_dim, teacher.input_px, teacher.digest) == (24, 16, card.sha256)
    assert teacher.card["teacher_digest"] == "abc"


def test_faces_of_another_size_reach_it_resized(tmp_path: Path) -> None:
    save(tmp_path / "best")
    assert DistilledTeacherSettings(folder=tmp_path / "best").load()(torch.zeros(2, 3, 40, 40)).shape == (
        2,
        24,
    )


def test_it_is_frozen(tmp_path: Path) -> None:
    save(tmp_path / "best")
    teacher = DistilledTeacherSettings(folder=tmp_path / "best").load().train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_settings_know_its_shape_before_it_is_loaded(tmp_path: Path) -> None:
    save(tmp_path / "best")
    (tmp_path / "best" / WEIGHTS).unlink()
    settings = DistilledTeacherSettings(folder=tmp_path / "best")
    assert (settings.embedding_dim, settings.input_px) == (24, 16)


def test_the_named_student_loads(tmp_path: Path) -> None:
    _, card = save(tmp_path / "best")
    settings = DistilledTeacherSettings(folder=tmp_path / "best", sha256=card.sha256)
    assert settings.load().digest == card.sha256


def test_another_student_than_the_named_one_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "best")
    settings = DistilledTeacherSettings(folder=tmp_path / "best", sha256="0" * 64)
    with pytest.raises(TeacherError, match=r"teacher.sha256: .*best has [0-9a-f]{64}, expected 0{64}"):
        settings.load()
    with pytest.raises(TeacherError, match=r"expected 0{64}"):
        _ = settings.embedding_dim


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_folder_that_lacks_a_file_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path / "best")
    (tmp_path / "best" / name).unlink()
    with pytest.raises(TeacherError, match=rf"teacher.folder: .*best is not a student's folder.* no {name}"):
        DistilledTeacherSettings(folder=tmp_path / "best").load()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    settings = DistilledTeacherSettings(folder=tmp_path / "nobody")
    with pytest.raises(TeacherError, match=r"teacher.folder: .*nobody is not a student's folder"):
        settings.load()
    with pytest.raises(TeacherError, match=r"teacher.folder: .*nobody is not a student's folder"):
        _ = settings.input_px


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "best").touch()
    with pytest.raises(TeacherError, match=r"teacher.folder: .*best"):
        DistilledTeacherSettings(folder=tmp_path / "best").load()


@pytest.mark.parametrize(
    ("name", "problem"), [(CARD, "is not a student's card"), (WEIGHTS, "its card says [0-9a-f]{64}")]
)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    save(tmp_path / "best")
    path = tmp_path / "best" / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TeacherError, match=problem):
        DistilledTeacherSettings(folder=tmp_path / "best").load()


def test_a_trial_chooses_it_by_its_name(tmp_path: Path) -> None:
    settings = TypeAdapter(AnyTeacherSettings).validate_python({"name": "distilled", "folder": str(tmp_path)})
    assert settings == DistilledTeacherSettings(folder=tmp_path)


def test_it_needs_a_folder() -> None:
    with pytest.raises(ValidationError, match="folder"):
        TypeAdapter(AnyTeacherSettings).validate_python({"name": "distilled"})
