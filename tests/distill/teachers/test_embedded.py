"""Claims of the shipped teacher and of how a teacher's file is read."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from distill.errors import TeacherError
from distill.faces import EmbeddedFacesSettings
from distill.teachers import EmbeddedTeacherSettings, Teacher
from distill.teachers.embedded import SHIPPED_WEIGHTS, embedded_network

FACES = torch.rand(3, 3, 32, 32) * 2 - 1


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return EmbeddedTeacherSettings().load()


def write_teacher(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    path = folder / "own.safetensors"
    safetensors.torch.save_file(weights, path)
    card = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


def test_the_card_names_the_shipped_file(teacher: Teacher) -> None:
    digest = hashlib.sha256(SHIPPED_WEIGHTS.read_bytes()).hexdigest()
    assert teacher.digest == teacher.card["sha256"] == digest


def test_the_teacher_was_trained_on_the_world_that_ships_with_it(teacher: Teacher) -> None:
    faces = EmbeddedFacesSettings(domain="authentic", size_px=teacher.input_px)
    assert teacher.card["data_digest"] == faces.generator().digest


def test_the_shipped_file_is_small() -> None:
    assert SHIPPED_WEIGHTS.stat().st_size <= 4 * 2**20


def test_the_card_tells_an_accuracy_between_its_bounds(teacher: Teacher) -> None:
    assert 0.95 <= teacher.card["metrics"]["benchmark/verification_accuracy"] <= 0.995


@pytest.mark.parametrize("size_px", [16, 32, 112])
def test_faces_of_any_size_are_embedded(teacher: Teacher, size_px: int) -> None:
    embedding = teacher(torch.rand(2, 3, size_px, size_px) * 2 - 1)
    assert embedding.shape == (2, teacher.embedding_dim)


def test_one_face_gets_about_one_embedding_at_every_size(teacher: Teacher) -> None:
    sizes = [EmbeddedFacesSettings(domain="authentic", size_px=size_px).generator() for size_px in (32, 112)]
    z = torch.randn(16, sizes[0].z_dim, generator=torch.Generator().manual_seed(0))
    small, large = (teacher(faces.synthesis(faces.mapping(z))) for faces in sizes)
    assert torch.cosine_similarity(small, large).mean() > 0.7


def test_embeddings_are_raw(teacher: Teacher) -> None:
    norms = teacher(FACES).norm(dim=1)
    assert not torch.allclose(norms, torch.ones_like(norms), atol=0.1)


def test_no_gradient_reaches_the_teacher_or_goes_through_it(teacher: Teacher) -> None:
    assert not teacher(FACES.clone().requires_grad_()).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_teacher_stays_in_eval_mode(teacher: Teacher) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    nn.ModuleList([teacher]).train()
    teacher(FACES)
    assert not any(module.training for module in teacher.modules())
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_an_own_teacher_loads_by_the_card_beside_it(tmp_path: Path) -> None:
    path = write_teacher(tmp_path, embedded_network().state_dict())
    own = EmbeddedTeacherSettings(weights=path).load()
    assert own.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_own_teacher_loads_by_its_digest_without_a_card(tmp_path: Path) -> None:
    path = write_teacher(tmp_path, embedded_network().state_dict())
    path.with_suffix(".json").unlink()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert EmbeddedTeacherSettings(weights=path, sha256=digest).load().digest == digest


def test_an_own_teacher_with_neither_is_refused(tmp_path: Path) -> None:
    path = write_teacher(tmp_path, embedded_network().state_dict())
    path.with_suffix(".json").unlink()
    with pytest.raises(TeacherError, match=r"teacher.sha256 must be given .* there is no .*own.json"):
        EmbeddedTeacherSettings(weights=path).load()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"there is no file .*nobody.safetensors"):
        EmbeddedTeacherSettings(weights=tmp_path / "nobody.safetensors", sha256="0" * 64).load()


@pytest.mark.parametrize("kept", [0, 4, 5000], ids=["empty", "no header", "cut short"])
def test_a_damaged_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = write_teacher(tmp_path, embedded_network().state_dict())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TeacherError, match="is cut short or is no safetensors file"):
        EmbeddedTeacherSettings(weights=path).load()


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    path = write_teacher(tmp_path, embedded_network().state_dict())
    torch.save(embedded_network().state_dict(), path)
    with pytest.raises(TeacherError, match="is cut short or is no safetensors file"):
        EmbeddedTeacherSettings(weights=path).load()


def test_another_file_than_the_named_one_is_refused(tmp_path: Path) -> None:
    path = write_teacher(tmp_path, embedded_network().state_dict())
    with pytest.raises(
        TeacherError, match=r"teacher.sha256: .*own.safetensors has [0-9a-f]{64}, expected 0{64}"
    ):
        EmbeddedTeacherSettings(weights=path, sha256="0" * 64).load()


def test_other_tensors_are_refused_by_name(tmp_path: Path) -> None:
    weights = embedded_network().state_dict()
    weights["head.weight"] = weights.pop("fc.weight")
    path = write_teacher(tmp_path, weights)
    with pytest.raises(TeacherError, match=r"lacks fc\.weight and has head\.weight too many"):
        EmbeddedTeacherSettings(weights=path).load()


def test_other_shapes_are_refused_by_name(tmp_path: Path) -> None:
    weights = embedded_network().state_dict()
    weights["fc.bias"] = torch.zeros(7)
    path = write_teacher(tmp_path, weights)
    with pytest.raises(TeacherError, match=r"fc\.bias has shape \(7,\), expected \(128,\)"):
        EmbeddedTeacherSettings(weights=path).load()


@pytest.mark.parametrize("card", ["{", "[]", '{"sha256": 5}'])
def test_a_card_without_a_digest_is_refused(tmp_path: Path, card: str) -> None:
    path = write_teacher(tmp_path, embedded_network().state_dict())
    path.with_suffix(".json").write_text(card)
    with pytest.raises(TeacherError, match=r"the card .*own.json"):
        EmbeddedTeacherSettings(weights=path).load()


def test_a_digest_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="sha256"):
        EmbeddedTeacherSettings(sha256="d41d8cd9")
