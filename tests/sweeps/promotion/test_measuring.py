"""A champion is measured on the candidate's own pairs, whatever the size of faces that it takes."""

import dataclasses
from pathlib import Path

import pytest
import torch

from distill.checkpoint import StudentCard, save_student
from distill.config import TrialConfig
from distill.errors import RefusedError
from distill.evaluation import evaluate_pairs
from distill.faces import EmbeddedFacesSettings, VerificationPairs
from distill.students import BridgeTinySettings
from sweeps.promotion import Candidate
from sweeps.promotion.measuring import on_the_same_pairs


@pytest.fixture(scope="module")
def benchmark() -> VerificationPairs:
    return EmbeddedFacesSettings(size_px=16).benchmark_pairs()


@pytest.fixture
def proposed(candidate: Candidate, benchmark: VerificationPairs) -> Candidate:
    """A candidate that takes faces of 16 px of the embedded world."""
    faces = {"name": "embedded", "size_px": 16}
    config = TrialConfig.model_validate({"method": {"name": "synthdistill"}, "faces": faces})
    return dataclasses.replace(candidate, config=config, benchmark=benchmark)


def save(folder: Path, *, size_px: int, captured_px: int | None = None) -> StudentCard:
    torch.manual_seed(0)
    settings = BridgeTinySettings()
    return save_student(
        settings.build(embedding_dim=8, size_px=size_px),
        folder,
        student=settings,
        embedding_dim=8,
        size_px=size_px,
        captured_px=captured_px,
        epoch=1,
        metrics={},
        teacher_digest="a" * 64,
    )


@pytest.mark.parametrize(("size_px", "captured_px"), [(16, None), (20, None), (16, 24)])
def test_faces_come_at_the_size_that_the_champion_takes(
    proposed: Candidate, tmp_path: Path, size_px: int, captured_px: int | None
) -> None:
    card = save(tmp_path / "champion", size_px=size_px, captured_px=captured_px)
    measured = on_the_same_pairs(tmp_path / "champion", proposed)
    torch.manual_seed(0)
    network = card.student.build(embedding_dim=8, size_px=size_px).eval()
    at_its_size = EmbeddedFacesSettings(size_px=size_px, captured_px=captured_px).benchmark_pairs()
    expected = evaluate_pairs(network, at_its_size, prefix="benchmark")
    assert measured.metrics == pytest.approx(expected, abs=1e-6)
    assert measured.similarity_P.shape == proposed.benchmark.left_P.shape


def test_a_benchmark_that_pairs_others_at_that_size_compares_nobody(
    proposed: Candidate, tmp_path: Path, benchmark: VerificationPairs
) -> None:
    save(tmp_path / "champion", size_px=20)
    swapped = dataclasses.replace(benchmark, left_P=benchmark.right_P, right_P=benchmark.left_P)
    with pytest.raises(RefusedError, match="takes faces of 20 px, at which the benchmark has other pairs"):
        on_the_same_pairs(tmp_path / "champion", dataclasses.replace(proposed, benchmark=swapped))
