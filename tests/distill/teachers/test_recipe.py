"""Claims of the recipes that made the shipped teachers."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill.evaluation import evaluate_verification
from distill.faces import EmbeddedFacesSettings, VerificationPairs
from distill.teachers import EmbeddedTeacherSettings, SpecialistTeacherSettings, specialist
from distill.teachers.recipe import (
    SPECIALIST_NUM_IDENTITIES,
    arcface_logits,
    identities_of,
    train_embedded_teacher,
    train_specialist_teacher,
)
from distill.teachers.specialist import Group


def measure(network: nn.Module, pairs: VerificationPairs) -> dict[str, float]:
    return evaluate_verification(network, pairs, prefix=pairs.name)


def test_arcface_widens_the_true_angle_only() -> None:
    rng = torch.Generator().manual_seed(0)
    embedding, centre = torch.randn(6, 8, generator=rng), torch.randn(5, 8, generator=rng)
    classes = torch.tensor([0, 1, 2, 3, 4, 0])
    logits = arcface_logits(embedding, centre, classes, scale=16.0, margin_rad=0.4)
    for face in range(6):
        for identity in range(5):
            angle = math.acos(float(F.cosine_similarity(embedding[face], centre[identity], dim=0)))
            widened = angle + 0.4 if identity == classes[face] else angle
            assert widened < math.pi
            assert logits[face, identity].item() == pytest.approx(16 * math.cos(widened), abs=1e-4)


def test_arcface_keeps_falling_where_the_margin_passes_pi() -> None:
    angles = torch.linspace(0, math.pi, 200)
    embedding = torch.stack([angles.cos(), angles.sin()], dim=1)
    centre = torch.tensor([[1.0, 0.0]])
    logits = arcface_logits(embedding, centre, torch.zeros(200, dtype=torch.int64), scale=1.0, margin_rad=0.5)
    assert (logits[1:] < logits[:-1]).all()


@pytest.mark.slow
def test_the_recipe_writes_a_loadable_teacher_and_is_repeatable(tmp_path: Path) -> None:
    digests = []
    for folder in ("first", "second"):
        path = train_embedded_teacher(tmp_path / folder, seed=3, steps=2, evaluate=lambda network, pairs: {})
        digests.append(EmbeddedTeacherSettings(weights=path).load().digest)
    assert digests[0] == digests[1]
    card = json.loads((tmp_path / "first" / "embedded.json").read_text())
    assert card["recipe"]["steps"] == 2
    assert card["seed"] == 3


@pytest.mark.slow
def test_the_specialist_recipe_writes_a_loadable_teacher_and_is_repeatable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(folder: str, group: Group) -> str:
        monkeypatch.setattr(specialist, "SHIPPED_FOLDER", tmp_path / folder)
        train_specialist_teacher(
            tmp_path / folder, group=group, seed=3, steps=2, evaluate=lambda network, pairs: {}
        )
        return SpecialistTeacherSettings(group=group).load().digest

    assert train("first", "group_d") == train("second", "group_d") != train("third", "group_c")
    card = json.loads((tmp_path / "first" / "specialist_group_d.json").read_text())
    assert card["data"].startswith("The first 2000 identities of group_d")
    assert card["command"] == "distill teacher --out DIR --specialist group_d --seed 3"
    assert card["recipe"]["steps"] == 2


@pytest.mark.parametrize("group", ["group_a", "group_b", "group_c", "group_d"])
def test_a_specialist_meets_the_first_people_of_its_group(group: Group) -> None:
    faces = EmbeddedFacesSettings(domain="authentic").generator()
    met = identities_of(group)
    assert len(met) == SPECIALIST_NUM_IDENTITIES
    names = [faces.group_names[index] for index in faces.group_of_classes(torch.arange(int(met[-1]) + 1))]
    assert met.tolist() == [identity for identity, name in enumerate(names) if name == group]


@pytest.mark.slow
def test_the_shipped_teacher_is_as_good_as_its_card_says() -> None:
    teacher = EmbeddedTeacherSettings().load()
    metrics = measure(teacher, EmbeddedFacesSettings(size_px=teacher.input_px).benchmark_pairs())
    for name, value in metrics.items():
        # A face or two may fall to the other side of a threshold on another processor.
        assert value == pytest.approx(teacher.card["metrics"][name], abs=0.01), name
    accuracies = [value for name, value in metrics.items() if "shared_threshold_accuracy_" in name]
    assert 0.95 <= metrics["benchmark/verification_accuracy"] <= 0.995
    assert max(accuracies) - min(accuracies) >= 0.015
