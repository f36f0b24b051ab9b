"""Embedding losses against their papers, read directly."""

import math

import pytest
import torch

from distill.losses import cosine, raw_mse, unit_mse


@pytest.fixture
def embeddings() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(6, 16, generator=rng), 3 * torch.randn(6, 16, generator=rng)


def test_raw_mse_matches_a_direct_reading_of_synthdistill(
    embeddings: tuple[torch.Tensor, torch.Tensor],
) -> None:
    student, teacher = (tensor.tolist() for tensor in embeddings)
    squares = [(a - b) ** 2 for s, t in zip(student, teacher, strict=True) for a, b in zip(s, t, strict=True)]
    assert raw_mse(*embeddings).item() == pytest.approx(sum(squares) / len(squares), rel=1e-5)


def test_cosine_matches_a_direct_reading(embeddings: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = (tensor.tolist() for tensor in embeddings)
    angles = [
        sum(a * b for a, b in zip(s, t, strict=True)) / (math.hypot(*s) * math.hypot(*t))
        for s, t in zip(student, teacher, strict=True)
    ]
    assert cosine(*embeddings).item() == pytest.approx(1 - sum(angles) / len(angles), rel=1e-5)


def test_unit_mse_is_the_cosine_loss_on_another_scale(embeddings: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.testing.assert_close(unit_mse(*embeddings), 2 / 16 * cosine(*embeddings))


@pytest.mark.parametrize("loss", [unit_mse, cosine])
def test_unit_losses_are_blind_to_norms(loss, embeddings: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = embeddings
    torch.testing.assert_close(loss(5 * student, 0.1 * teacher), loss(student, teacher))


def test_opposite_embeddings_are_the_worst(embeddings: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, _ = embeddings
    torch.testing.assert_close(cosine(student, -student), torch.tensor(2.0))
