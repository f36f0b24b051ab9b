"""Noise that is hashed: it must look drawn, and depend on face, layer and pixel alone."""

import itertools

import pytest
import torch
from torch import Tensor

from distill.faces.stylegan2.noise import face_noise

SEEDS = torch.cat([torch.rand(6, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 2**-24])])


def streams() -> Tensor:
    """Noise of 8 faces (two of neighbouring seeds) in 4 layers, of shape (32, P)."""
    return torch.cat([face_noise(SEEDS, layer=layer, side_px=128).flatten(1) for layer in range(4)])


def test_is_standard_normal() -> None:
    assert streams().dtype == torch.float32
    noise = streams().double()
    mean_error = noise.shape[1] ** -0.5  # of one stream, one standard deviation
    assert noise.mean(dim=1).abs().max() < 4.5 * mean_error
    assert (noise.std(dim=1) - 1).abs().max() < 4.5 * mean_error / 2**0.5
    assert noise.pow(3).mean() == pytest.approx(0, abs=0.03)
    assert noise.pow(4).mean() == pytest.approx(3, abs=0.06)
    quantiles = torch.special.ndtr(noise).flatten().sort().values
    uniform = torch.linspace(0, 1, len(quantiles), dtype=torch.float64)
    assert (quantiles - uniform).abs().max() < 1.95 / len(quantiles) ** 0.5  # Kolmogorov-Smirnov, p = 0.001


def test_faces_and_layers_are_unrelated() -> None:
    correlation = torch.corrcoef(streams()).fill_diagonal_(0)
    assert correlation.abs().max() < 4.5 / 128


@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (1, 1), (0, 64), (64, 0)])
def test_pixels_are_unrelated(shift: tuple[int, int]) -> None:
    noise = streams().view(-1, 128, 128)
    moved = noise.roll(shift, dims=(1, 2))
    assert (noise * moved).mean() == pytest.approx(0, abs=4.5 / noise.numel() ** 0.5)
    assert (noise.abs() * moved.abs()).mean() == pytest.approx(2 / torch.pi, abs=0.01)


def test_no_stream_is_a_part_of_another() -> None:
    seen = [set(stream.tolist()) for stream in streams()[::4]]
    assert max(len(one & other) for one, other in itertools.combinations(seen, 2)) < 200


def test_a_face_has_its_noise_wherever_it_is() -> None:
    whole = face_noise(SEEDS, layer=3, side_px=8)
    assert whole.shape == (8, 1, 8, 8)
    torch.testing.assert_close(face_noise(SEEDS[5:6], layer=3, side_px=8), whole[5:6], rtol=1e-6, atol=1e-6)
    again = face_noise(SEEDS.flip(0), layer=3, side_px=8).flip(0)
    torch.testing.assert_close(again, whole, rtol=1e-6, atol=1e-6)


def test_layers_of_one_size_have_noise_of_their_own() -> None:
    assert not torch.isclose(
        face_noise(SEEDS, layer=1, side_px=8), face_noise(SEEDS, layer=2, side_px=8)
    ).any()


def test_is_finite_for_every_seed() -> None:
    seeds = torch.tensor([0.0, 0.5, 1 - 2**-24])
    assert face_noise(seeds, layer=0, side_px=256).isfinite().all()
