"""What is minimised: the classifier's term and the losses', added up."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses import LossContext, LossesSettings
from distill.losses.classifier import MarginClassifier
from distill.losses.margins import CosFaceSettings
from distill.methods.labelled import KAPPA
from distill.outputs import ModelOutputs
from distill.training.learner import Learner

DIM, CLASSES = 512, 5
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


class Projection(nn.Module):
    """The simplest student: one layer on the pixels."""

    stage_names = ("first",)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 16, DIM)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.first(images).flatten(1))


def learner(losses: dict[str, dict[str, float]], *, classifies: bool, compares_maps: bool = False) -> Learner:
    torch.manual_seed(0)
    context = LossContext(student_dim=DIM, teacher_dim=DIM, num_classes=CLASSES)
    classifier = MarginClassifier(DIM, CLASSES, CosFaceSettings().build()) if classifies else None
    return Learner(
        Projection(),
        classifier=classifier,
        losses=LossesSettings.model_validate(losses).build(context),
        compares_maps=compares_maps,
    )


@pytest.fixture
def images() -> Tensor:
    return torch.randn(len(LABELS), 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def teacher() -> ModelOutputs:
    rng = torch.Generator().manual_seed(2)
    return ModelOutputs(embedding=torch.randn(len(LABELS), DIM, generator=rng))


def test_the_combined_loss_is_cosface_plus_ten_thousand_times_the_squared_error(
    images: Tensor, teacher: ModelOutputs
) -> None:
    trained = learner({"cosine": {"weight": KAPPA}}, classifies=True)
    assert trained.classifier is not None
    embedding, terms = trained(images, teacher=teacher, labels_B=LABELS)
    unit = F.normalize(embedding)
    cosine = unit @ F.normalize(trained.classifier.centre_CD).T
    cosine[torch.arange(len(LABELS)), LABELS] -= 0.35
    by_hand = F.cross_entropy(64 * cosine, LABELS) + 10_000 * F.mse_loss(unit, F.normalize(teacher.embedding))
    torch.testing.assert_close(sum(terms.values()), by_hand, rtol=1e-4, atol=1e-3)


def test_terms_are_named_after_what_they_are(images: Tensor, teacher: ModelOutputs) -> None:
    both = learner({"cosine": {}, "raw_mse": {}}, classifies=True)
    _, terms = both(images, teacher=teacher, labels_B=LABELS)
    assert set(terms) == {"classification", "cosine", "raw_mse"}
    _, terms = learner({"cosine": {}}, classifies=False)(images, teacher=teacher, labels_B=None)
    assert list(terms) == ["cosine"]


def test_maps_are_those_of_the_last_forward_pass(images: Tensor, teacher: ModelOutputs) -> None:
    seen: list[ModelOutputs] = []

    class Watch(nn.Module):
        def forward(self, *, student: ModelOutputs, **_: object) -> dict[str, Tensor]:
            seen.append(student)
            return {}

    trained = learner({"cosine": {}}, classifies=False, compares_maps=True)
    trained.losses = Watch()  # pyright: ignore[reportAttributeAccessIssue] - only looks
    for _ in range(2):
        trained(images, teacher=teacher, labels_B=None)
    for outputs in seen:
        (first,) = outputs.maps
        torch.testing.assert_close(first, trained.student.get_submodule("first")(images))
