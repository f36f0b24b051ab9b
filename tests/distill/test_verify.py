"""A threshold is measured, or there is no verdict."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from distill.checkpoint import load_student, save_student
from distill.cli import main
from distill.errors import InputError
from distill.evaluation import embed_pairs
from distill.faces import EmbeddedFacesSettings, VerificationPairs
from distill.models import load_model
from distill.students import BridgeTinySettings
from distill.teachers import EmbeddedTeacherSettings
from distill.verify import Verification, usual_pairs, verify

SIZE_PX = 16


def made_student(folder: Path, *, teacher_digest: str) -> Path:
    torch.manual_seed(0)
    settings = BridgeTinySettings()
    save_student(
        settings.build(embedding_dim=32, size_px=SIZE_PX),
        folder,
        student=settings,
        embedding_dim=32,
        size_px=SIZE_PX,
        epoch=1,
        metrics={},
        teacher_digest=teacher_digest,
    )
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    digest = EmbeddedTeacherSettings().load().digest
    return made_student(tmp_path_factory.mktemp("student") / "best", teacher_digest=digest)


@pytest.fixture(scope="module")
def pairs() -> VerificationPairs:
    return EmbeddedFacesSettings(size_px=SIZE_PX).validation_pairs()


@pytest.fixture(scope="module")
def faces(pairs: VerificationPairs, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first six images of the pairs, as files."""
    folder = tmp_path_factory.mktemp("faces")
    paths = [folder / f"{number}.png" for number in range(6)]
    for path, image in zip(paths, pairs.images_NCHW, strict=False):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return paths


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def test_the_threshold_is_that_of_so_many_impostors(
    student: Path, pairs: VerificationPairs, faces: list[Path]
) -> None:
    network, _ = load_student(student)
    found = verify(network, faces[0], faces[1], pairs=pairs, far=0.01, size_px=SIZE_PX)
    unit_ND = embed_pairs(network, pairs).double()
    similarity_P = (unit_ND[pairs.left_P] * unit_ND[pairs.right_P]).sum(1)
    impostors = sorted(similarity_P[~pairs.is_genuine_P].tolist(), reverse=True)
    assert found.threshold == pytest.approx(impostors[16], abs=1e-6)  # of 1,600, 16 lie above
    assert (found.far, found.num_impostors) == (0.01, 1600)
    # Embedded as the pairs are: the same images have the same similarity.
    assert found.similarity == pytest.approx((unit_ND[0] @ unit_ND[1]).item(), abs=1e-5)
    assert found.same_person == (found.similarity > found.threshold)


def test_an_image_is_of_the_person_on_itself(
    student: Path, pairs: VerificationPairs, faces: list[Path]
) -> None:
    network, _ = load_student(student)
    found = verify(network, faces[2], faces[2], pairs=pairs, far=0.01, size_px=SIZE_PX)
    assert found.similarity == pytest.approx(1, abs=1e-6)
    assert found.same_person


def test_a_rate_that_is_too_fine_is_refused_with_the_finest(
    student: Path, pairs: VerificationPairs, faces: list[Path]
) -> None:
    network, _ = load_student(student)
    with pytest.raises(InputError, match=r"--far must be 0\.000625 or more on validation, whose 1,600"):
        verify(network, faces[0], faces[1], pairs=pairs, far=1e-4, size_px=SIZE_PX)
    assert verify(network, faces[0], faces[1], pairs=pairs, far=0.000625, size_px=SIZE_PX).far <= 0.000625


def test_few_false_accepts_make_an_unsure_threshold() -> None:
    found = Verification(
        similarity=0.4, threshold=0.3, far=0.001, tar=0.5, num_impostors=3000, pairs="benchmark"
    )
    assert not found.is_sure_of_threshold
    assert dataclasses.replace(found, far=0.01).is_sure_of_threshold


def test_pairs_of_one_kind_give_no_threshold(
    student: Path, pairs: VerificationPairs, faces: list[Path]
) -> None:
    alike = dataclasses.replace(pairs, is_genuine_P=torch.ones_like(pairs.is_genuine_P))
    network, _ = load_student(student)
    with pytest.raises(InputError, match="validation has one kind only"):
        verify(network, faces[0], faces[1], pairs=alike, far=0.01, size_px=SIZE_PX)


def test_only_students_of_the_embedded_world_have_usual_pairs(student: Path, tmp_path: Path) -> None:
    assert usual_pairs("it", load_model(str(student))) == "embedded-benchmark"
    other = made_student(tmp_path / "best", teacher_digest="0" * 64)
    with pytest.raises(InputError, match="it does not tell which pairs its threshold can be measured on"):
        usual_pairs("it", load_model(str(other)))


def test_the_command_says_similarity_threshold_and_verdict(student: Path, faces: list[Path]) -> None:
    options = ("--model", student, "--data", "embedded-validation", "--far", "0.002")
    done = command(faces[3], faces[3], *options)
    assert done.exit_code == 0, done.output
    similarity, threshold, unsure, verdict = done.stdout.splitlines()
    assert similarity == "similarity 1.0000"
    assert threshold.endswith("% of genuine ones")
    assert unsure.startswith("few impostor pairs set that threshold")
    assert verdict == "the same person"
    assert "must be aligned" in done.stderr

    document = json.loads(command(faces[3], faces[3], *options, "--json").stdout)
    assert document["same_person"] is True
    assert document["far"] <= 0.002
    assert math.isclose(document["similarity"], 1, abs_tol=1e-6)


def test_bad_input_is_told_in_one_sentence(student: Path, faces: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(np.arange(50, dtype=np.uint8).tobytes())
    data = ("--data", "embedded-validation", "--far", "0.01")
    for arguments, message in (
        ((broken, faces[0], "--model", student, *data), f"{broken} cannot be decoded"),
        ((tmp_path / "no.png", faces[0], "--model", student, *data), "no.png cannot be decoded"),
        ((faces[0], faces[1], "--model", tmp_path, *data), "is not a student's folder"),
        ((faces[0], faces[1], "--model", student, *data[:2], "--far", "1.5"), "1.5 is not in the range"),
    ):
        done = command(*arguments)
        assert done.exit_code == 2
        assert message in done.stderr
        assert done.stdout == ""
