"""Costs against published ones."""

import pytest
import torch
from torch import nn

from distill.evaluation import static_efficiency, static_efficiency_of
from distill.students import BridgeTinySettings, IResNet, MobileFaceNetSettings


def iresnet(blocks: tuple[int, ...]) -> IResNet:
    with torch.device("meta"):
        return IResNet(blocks=blocks, widths=(64, 128, 256, 512), embedding_dim=512, size_px=112)


@pytest.mark.parametrize(
    ("blocks", "gmacs"),
    [((2, 2, 2, 2), 2.61), ((3, 4, 6, 3), 4.46), ((3, 4, 14, 3), 6.31), ((3, 13, 30, 3), 12.09)],
)
def test_iresnets_take_the_published_multiply_adds(blocks: tuple[int, ...], gmacs: float) -> None:
    assert static_efficiency(iresnet(blocks), size_px=112)["efficiency/macs"] / 1e9 == pytest.approx(
        gmacs, abs=0.005
    )


def test_mobilefacenet_takes_the_published_multiply_adds() -> None:
    settings = MobileFaceNetSettings()
    network = settings.build(embedding_dim=512, size_px=112)
    normalised = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.register_forward_hook(lambda _module, _inputs, output: normalised.append(output.numel()))
    network.eval()(torch.zeros(1, 3, 112, 112))
    macs = static_efficiency_of(settings, embedding_dim=512, size_px=112)["efficiency/macs"]
    # The published 227.6 M counts two operations for each value that a batch normalisation puts out.
    assert (macs + 2 * sum(normalised)) / 1e6 == pytest.approx(227.6, abs=0.05)


def test_counts_a_grouped_convolution_and_a_linear_layer_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3), nn.Flatten(), nn.Linear(96, 5))
    efficiency = static_efficiency(network, size_px=8)
    assert efficiency == {
        "efficiency/parameters": 6 * 9 + 6 + 96 * 5 + 5,
        "efficiency/weight_bytes": 4 * (6 * 9 + 6 + 96 * 5 + 5),
        "efficiency/macs": 4 * 4 * 6 * 9 + 96 * 5,
    }


def test_buffers_weigh_too() -> None:
    float_values, counter = 4 + 4, 1  # gain and bias, running mean and variance, int64 steps
    efficiency = static_efficiency(nn.Sequential(nn.BatchNorm2d(2), nn.Flatten()), size_px=4)
    assert efficiency["efficiency/weight_bytes"] == 4 * float_values + 8 * counter
    assert efficiency["efficiency/parameters"] == 4


def test_a_planned_student_costs_what_the_built_one_does() -> None:
    settings = BridgeTinySettings()
    built = static_efficiency(settings.build(embedding_dim=16, size_px=32), size_px=32)
    assert static_efficiency_of(settings, embedding_dim=16, size_px=32) == built


def test_planning_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    static_efficiency_of(BridgeTinySettings(), embedding_dim=16, size_px=32)
    assert torch.equal(torch.get_rng_state(), before)


def test_leaves_the_network_as_it_found_it() -> None:
    network = BridgeTinySettings().build(embedding_dim=16, size_px=32).train()
    network.features[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    static_efficiency(network, size_px=32)
    assert network.training
    assert not network.features[1].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
