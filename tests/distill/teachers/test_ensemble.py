"""Claims of several teachers side by side."""

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from distill.errors import TeacherError
from distill.evaluation import static_efficiency
from distill.teachers import (
    AnyTeacherSettings,
    EmbeddedTeacherSettings,
    EnsembleTeacherSettings,
    SpecialistTeacherSettings,
    Teacher,
)
from distill.teachers.ensemble import EnsembleTeacher

MEMBERS = (EmbeddedTeacherSettings(), SpecialistTeacherSettings(group="group_b"))
FACES = torch.rand(3, 3, 32, 32) * 2 - 1


class Pixels(nn.Module):
    """Embeds a face as its pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def pixels(size_px: int, digest: str) -> Teacher:
    width = 3 * size_px**2
    return Teacher(
        Pixels(), name="pixels", embedding_dim=width, input_px=size_px, digest=digest, card={"px": size_px}
    )


@pytest.fixture(scope="module")
def ensemble() -> EnsembleTeacher:
    return EnsembleTeacherSettings(members=MEMBERS).load()


def test_the_raw_embeddings_stand_side_by_side_in_order(ensemble: EnsembleTeacher) -> None:
    first, second = (member.load() for member in MEMBERS)
    embedding = ensemble(FACES)
    assert embedding.shape == (3, ensemble.embedding_dim) == (3, 128 + 64)
    assert torch.equal(embedding[:, :128], first(FACES))
    assert torch.equal(embedding[:, 128:], second(FACES))


def test_each_member_resizes_the_face_itself() -> None:
    ensemble = EnsembleTeacher([pixels(8, "a"), pixels(24, "b")])
    faces = torch.rand(2, 3, 40, 40) * 2 - 1
    expected = [
        F.interpolate(faces, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        for size in (8, 24)
    ]
    assert torch.equal(ensemble(faces), torch.cat([face.flatten(1) for face in expected], dim=1))


def test_it_sums_up_its_members() -> None:
    ensemble = EnsembleTeacher([pixels(8, "a"), pixels(24, "b")])
    assert (ensemble.embedding_dim, ensemble.input_px) == (3 * 64 + 3 * 576, 24)
    assert ensemble.card["members"] == [{"px": 8}, {"px": 24}]
    assert ensemble.digest == hashlib.sha256(b"a\nb").hexdigest()
    assert EnsembleTeacher([pixels(24, "b"), pixels(8, "a")]).digest != ensemble.digest


def test_the_settings_know_its_shape_before_it_is_loaded(ensemble: EnsembleTeacher) -> None:
    settings = EnsembleTeacherSettings(members=MEMBERS)
    assert (settings.embedding_dim, settings.input_px) == (ensemble.embedding_dim, ensemble.input_px)


def test_it_is_frozen(ensemble: EnsembleTeacher) -> None:
    nn.ModuleList([ensemble]).train()
    assert not any(module.training for module in ensemble.modules())
    assert not any(parameter.requires_grad for parameter in ensemble.parameters())
    assert not ensemble(FACES.clone().requires_grad_()).requires_grad


def test_it_costs_what_its_members_cost(ensemble: EnsembleTeacher) -> None:
    whole = static_efficiency(ensemble, size_px=32)
    parts = [static_efficiency(member.load(), size_px=32) for member in MEMBERS]
    for name, value in whole.items():
        assert value == sum(part[name] for part in parts), name


def test_a_member_that_does_not_load_is_refused(tmp_path: Path) -> None:
    nobody = EmbeddedTeacherSettings(weights=tmp_path / "nobody.safetensors", sha256="0" * 64)
    with pytest.raises(TeacherError, match=r"no file .*nobody.safetensors"):
        EnsembleTeacherSettings(members=(MEMBERS[0], nobody)).load()


@pytest.mark.parametrize("num_members", [0, 1])
def test_one_teacher_is_no_ensemble(num_members: int) -> None:
    with pytest.raises(ValidationError, match="at least 2 items"):
        EnsembleTeacherSettings(members=MEMBERS[:num_members])


def test_a_trial_chooses_it_and_its_members_by_name() -> None:
    written = {
        "name": "ensemble",
        "members": [{"name": "embedded"}, {"name": "specialist", "group": "group_b"}],
    }
    assert TypeAdapter(AnyTeacherSettings).validate_python(written) == EnsembleTeacherSettings(
        members=MEMBERS
    )


def test_an_ensemble_holds_no_ensemble() -> None:
    inner = {"name": "ensemble", "members": [{"name": "embedded"}, {"name": "embedded"}]}
    with pytest.raises(ValidationError, match="ensemble"):
        TypeAdapter(AnyTeacherSettings).validate_python({"name": "ensemble", "members": [inner, inner]})
