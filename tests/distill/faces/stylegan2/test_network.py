"""The network against its equations, and its tensors against NVIDIA's files."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from distill.faces.stylegan2.network import Architecture, Network
from tests.distill.faces.stylegan2.by_hand import drawn, mapped, random_tensors, shapes

SMALL = {"resolution": 32, "channel_base": 1024, "channel_max": 12, "z_dim": 6, "w_dim": 10}


def small(*, c_dim: int = 0, clamp: float | None = None) -> tuple[Network, dict[str, Tensor]]:
    tensors = random_tensors(**SMALL, c_dim=c_dim, layers=3)
    network = Network(Architecture(**SMALL, c_dim=c_dim, num_mapping_layers=3, conv_clamp=clamp))
    network.load_state_dict(tensors)
    return network.requires_grad_(False), tensors


def latents(num_faces: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(num_faces, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("psi", [1.0, 0.7, 0.0])
def test_mapping_follows_its_equations(psi: float) -> None:
    network, tensors = small()
    z_BZ = latents(4, 6)
    expected = mapped(tensors, z_BZ, psi=psi)
    torch.testing.assert_close(network.mapping(z_BZ, psi=psi).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("psi", [1.0, 0.7])
def test_conditional_mapping_follows_its_equations(psi: float) -> None:
    network, tensors = small(c_dim=5)
    z_BZ, classes = latents(4, 6), [4, 0, 2, 2]
    expected = mapped(tensors, z_BZ, classes, psi=psi)
    w_BW = network.mapping(z_BZ, torch.tensor(classes), psi=psi)
    torch.testing.assert_close(w_BW.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("clamp", [None, 1.5])
@pytest.mark.parametrize("fresh", [True, False])
def test_synthesis_follows_its_equations(*, clamp: float | None, fresh: bool) -> None:
    network, tensors = small(clamp=clamp)
    ws_BLW = latents(3, network.architecture.num_ws, 10)
    sides = [4, 8, 8, 16, 16, 32, 32]
    noise = [latents(3, 1, side, side, seed=side + layer) for layer, side in enumerate(sides)]
    expected = drawn(tensors, ws_BLW, noise if fresh else None, clamp=clamp)
    images = network.synthesis(ws_BLW, lambda layer, stored: noise[layer] if fresh else stored)
    assert expected.std() > 0.1
    torch.testing.assert_close(images.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_clamp_of_the_test_above_limits_something() -> None:
    (network, tensors), ws_BLW = small(), latents(3, 8, 10)
    assert (drawn(tensors, ws_BLW, clamp=1.5) - drawn(tensors, ws_BLW)).abs().max() > 0.1
    assert network.architecture.num_ws == 8


def test_no_noise_is_noise_of_zero() -> None:
    network, _ = small()
    ws_BLW = latents(2, 8, 10)
    nothing = network.synthesis(ws_BLW, lambda layer, stored: None)
    torch.testing.assert_close(nothing, network.synthesis(ws_BLW, lambda layer, stored: 0 * stored))


def test_a_frozen_network_draws_without_gradients() -> None:
    network, _ = small()
    images = network.synthesis(latents(2, 8, 10), lambda layer, stored: stored)
    assert images.shape == (2, 3, 32, 32)
    assert not images.requires_grad


@pytest.mark.parametrize(
    ("resolution", "channel_base", "c_dim", "parameters", "tensors", "num_ws"),
    [
        (256, 16384, 0, 24_767_458, 144, 14),  # FFHQ, of 256 px: 24.77 M
        (1024, 32768, 0, 30_370_060, 182, 18),
        (128, 16384, 0, 24_525_213, 125, 12),
        (128, 16384, 10_572, 30_200_733, 127, 12),  # SFace's, conditional on the people of CASIA-WebFace
    ],
)
def test_is_laid_out_as_the_real_files(
    *, resolution: int, channel_base: int, c_dim: int, parameters: int, tensors: int, num_ws: int
) -> None:
    sizes = {"resolution": resolution, "channel_base": channel_base, "channel_max": 512, "c_dim": c_dim}
    architecture = Architecture(**sizes, num_mapping_layers=8)
    with torch.device("meta"):
        network = Network(architecture)
    expected = shapes(**sizes, z_dim=512, w_dim=512, layers=8)
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == expected
    assert len(expected) == tensors
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert architecture.num_ws == num_ws


def test_starts_from_the_filter_of_the_real_files() -> None:
    fresh = Network(Architecture(**SMALL)).synthesis.state_dict()["b8.conv0.resample_filter"]
    row = torch.tensor([1, 3, 3, 1]) / 8
    torch.testing.assert_close(fresh, row[:, None] * row)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"resolution": 96}, "resolution must be a power of two, got 96"),
        ({"resolution": 2048}, "less than or equal to 1024"),
        ({"resolution": 256, "num_mapping_layers": 10**9}, "less than or equal to 64"),
    ],
)
def test_an_architecture_that_is_none_is_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Architecture(**wrong)
