"""A teacher's self-test against networks whose answers are known by hand."""

import io
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from distill.errors import InputError, TeacherError
from distill.faces import EmbeddedFacesSettings
from distill.faces.packs import PairsSettings
from distill.students import IResNet
from distill.teacher_check import check_teacher, self_test
from distill.teachers import (
    EmbeddedTeacherSettings,
    EnsembleTeacherSettings,
    PretrainedTeacherSettings,
    Teacher,
)
from distill.teachers.embedded import SHIPPED_WEIGHTS
from distill.teachers.pretrained import MIRROR_MARGIN, Facts

FACES = EmbeddedFacesSettings(domain="authentic").agreement_faces(64)
SHIPPED: dict[str, Any] = {"weights": SHIPPED_WEIGHTS, "facts": Facts(size_px=32)}


class Pooled(nn.Module):
    """Embeds a face as its mean colours and, `tilt` times, how far its left is brighter than its right."""

    def __init__(self, *, tilt: float = 0.0, bias: float = 0.0, factor: float = 1.0):
        super().__init__()
        self.tilt, self.bias, self.factor = tilt, bias, factor

    def forward(self, images: Tensor) -> Tensor:
        half = images.shape[-1] // 2
        tilt_B = (images[..., :half].mean((1, 2, 3)) - images[..., half:].mean((1, 2, 3))) / 2
        colours_B3 = images.mean((2, 3))
        return self.factor * torch.cat([colours_B3, self.tilt * tilt_B[:, None]], dim=1) + self.bias


def teacher(network: nn.Module, *, embedding_dim: int = 4) -> Teacher:
    return Teacher(
        network, name="pooled", embedding_dim=embedding_dim, input_px=16, digest="d", card={"name": "pooled"}
    )


def plain(*colours: tuple[float, float, float]) -> Tensor:
    """Faces of one colour each."""
    return torch.tensor(colours)[:, :, None, None].expand(-1, 3, 16, 16)


def test_similarities_are_those_counted_by_hand() -> None:
    faces = plain((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.6, 0.8, 0.0))
    test = self_test(teacher(Pooled()), faces, batch_size=2)
    assert test.mirror_similarity == pytest.approx(1.0)
    assert test.stranger_similarity == pytest.approx((0.0 + 0.6 + 0.8) / 3, abs=1e-6)
    assert (test.teacher, test.verification_accuracy) == ("pooled", None)


def test_a_mirror_image_that_looks_otherwise_is_counted() -> None:
    left = torch.zeros(2, 3, 16, 16)
    left[0, 0], left[1, 1] = 1.0, 1.0
    left[:, :, :, 8:] = 0.0
    # Half of one channel is lit: a mean of 1/2 in it, and of 1/6 of light that lies to the left, halved.
    test = self_test(teacher(Pooled(tilt=1.0)), left)
    cosine = (0.5**2 - (1 / 6) ** 2) / (0.5**2 + (1 / 6) ** 2)
    assert test.mirror_similarity == pytest.approx(cosine, abs=1e-6)
    assert test.stranger_similarity == pytest.approx((1 / 6) ** 2 / (0.5**2 + (1 / 6) ** 2), abs=1e-6)


@pytest.mark.parametrize(("degrees", "passes"), [(44.0, False), (47.0, True)])
def test_faces_must_differ_by_the_margin(degrees: float, passes: bool) -> None:
    angle = math.radians(degrees)
    faces = plain((1.0, 0.0, 0.0), (math.cos(angle), math.sin(angle), 0.0))
    assert (1 - math.cos(angle) >= MIRROR_MARGIN) == passes
    if passes:
        self_test(teacher(Pooled()), faces)
    else:
        told = (
            rf"like its mirror image by 1\.00 and like others by 0\.72, which must differ by {MIRROR_MARGIN}"
        )
        with pytest.raises(TeacherError, match=told):
            self_test(teacher(Pooled()), faces)


def test_embeddings_that_are_not_finite_are_refused() -> None:
    with pytest.raises(TeacherError, match="pooled gives embeddings that are not finite"):
        self_test(teacher(Pooled(factor=math.inf)), FACES)


def test_embeddings_that_are_all_alike_are_refused() -> None:
    with pytest.raises(TeacherError, match="gives the same embedding to all of 64 faces"):
        self_test(teacher(Pooled(factor=0.0, bias=1.0)), FACES)


def test_another_width_than_promised_is_refused() -> None:
    with pytest.raises(TeacherError, match=r"gives embeddings of shape \(64, 4\), promised \(64, 5\)"):
        self_test(teacher(Pooled(), embedding_dim=5), FACES)


def test_one_face_is_no_test() -> None:
    with pytest.raises(ValueError, match="at least 2 faces, got 1"):
        self_test(teacher(Pooled()), FACES[:1])


def test_a_trained_teacher_passes() -> None:
    test = self_test(EmbeddedTeacherSettings().load(), FACES)
    assert test.mirror_similarity > 0.95
    assert test.stranger_similarity < 0.1


def test_an_untrained_teacher_fails() -> None:
    torch.manual_seed(0)
    network = IResNet(blocks=(1, 1, 1, 1), widths=(8, 16, 24, 32), embedding_dim=4, size_px=16)
    with pytest.raises(TeacherError, match="its preprocessing or its weights are wrong"):
        self_test(teacher(network), FACES)


@pytest.mark.parametrize("facts", [{"mean": 0.0, "std": 1.0}, {"color_order": "BGR"}])
def test_a_teacher_that_is_fed_wrongly_fails(facts: dict[str, Any]) -> None:
    settings = PretrainedTeacherSettings(weights=SHIPPED_WEIGHTS, facts=Facts(size_px=32, **facts))
    with pytest.raises(TeacherError, match="its preprocessing or its weights are wrong"):
        check_teacher(settings, settings.load(), FACES)


def pack(path: Path, *, mistaken: int) -> PairsSettings:
    """20 pairs: faces with their mirror images, and with other faces; the last ones say the opposite."""
    pixels = ((FACES[:20] + 1) * 127.5).round().byte()
    images, is_same = [], []
    for number in range(20):
        genuine = number % 2 == 0
        other = pixels[number].flip(-1) if genuine else pixels[(number + 1) % 20]
        for image in (pixels[number], other):
            stream = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, format="PNG")
            images.append(stream.getvalue())
        is_same.append(genuine != (number >= 20 - mistaken))
    path.write_bytes(pickle.dumps((images, is_same)))
    return PairsSettings(path=path)


@pytest.mark.parametrize(("mistaken", "accuracy"), [(0, 1.0), (2, 0.9)])
def test_pairs_are_told_apart_as_well_as_asked(tmp_path: Path, mistaken: int, accuracy: float) -> None:
    pairs = pack(tmp_path / "pairs.bin", mistaken=mistaken)
    settings = PretrainedTeacherSettings(**SHIPPED, verification=pairs, verification_at_least=accuracy)
    (test,) = check_teacher(settings, settings.load(), FACES)
    assert test.verification_accuracy == pytest.approx(accuracy)


def test_pairs_that_are_not_told_apart_well_enough_are_told(tmp_path: Path) -> None:
    pairs = pack(tmp_path / "pairs.bin", mistaken=2)
    settings = PretrainedTeacherSettings(**SHIPPED, verification=pairs, verification_at_least=0.99)
    told = (
        r"teacher\.verification_at_least: embedded judges 90\.00% of .*pairs.bin rightly, less than 99\.00%"
    )
    with pytest.raises(TeacherError, match=told):
        check_teacher(settings, settings.load(), FACES)


def test_the_settings_say_which_pairs(tmp_path: Path) -> None:
    nowhere = PairsSettings(path=tmp_path / "nowhere.bin")
    settings = PretrainedTeacherSettings(**SHIPPED, verification=nowhere, verification_at_least=0.9)
    with pytest.raises(InputError, match=r"nowhere\.bin"):
        check_teacher(settings, settings.load(), FACES)


def test_a_teacher_that_was_made_here_is_not_tested_again() -> None:
    assert check_teacher(EmbeddedTeacherSettings(), EmbeddedTeacherSettings().load(), FACES) == []


def test_every_member_of_an_ensemble_that_others_trained_is_tested() -> None:
    good = PretrainedTeacherSettings(**SHIPPED)
    bad = PretrainedTeacherSettings(weights=SHIPPED_WEIGHTS, facts=Facts(size_px=32, mean=0.0, std=1.0))
    settings = EnsembleTeacherSettings(members=(good, EmbeddedTeacherSettings(), good))
    first, second = check_teacher(settings, settings.load(), FACES)
    assert first.mirror_similarity == second.mirror_similarity
    settings = EnsembleTeacherSettings(members=(EmbeddedTeacherSettings(), bad))
    with pytest.raises(TeacherError, match="its preprocessing or its weights are wrong"):
        check_teacher(settings, settings.load(), FACES)
