"""Costs against published ones, and how they are timed."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from distill.errors import InputError
from distill.evaluation import measured_efficiency, static_efficiency, static_efficiency_of
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
        "efficiency/activation_bytes": 4 * (4 * 4 * 6 + 5),
    }


def test_feature_maps_of_a_bridge_student_take_what_its_paper_reports_as_memory() -> None:
    # 0.057 MB for 0.21 M parameters, which alone would take 0.84 MB
    efficiency = static_efficiency_of(BridgeTinySettings(), embedding_dim=128, size_px=16)
    maps = 16 * 16 * 32 + 8 * 8 * (32 + 64) + 4 * 4 * (64 + 96) + 2 * 2 * 96
    assert efficiency["efficiency/activation_bytes"] == 4 * (maps + 128)
    assert 0.03 < efficiency["efficiency/activation_bytes"] / 2**20 < 0.07


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


@pytest.mark.parametrize("measure", [static_efficiency, partial(measured_efficiency, repeats=1)])
def test_leaves_the_network_as_it_found_it(measure: Callable[..., dict[str, float]]) -> None:
    network = BridgeTinySettings().build(embedding_dim=16, size_px=32).train()
    network.features[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure(network, size_px=32)
    assert network.training
    assert not network.features[1].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Witness(nn.Module):
    """Notes what each call to it meets."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()
        self.shapes: set[tuple[int, ...]] = set()
        self.fails = False

    def forward(self, faces: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("the network broke")
        self.threads.add(torch.get_num_threads())
        self.shapes.add(tuple(faces.shape))
        return faces.mean((2, 3))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_times_batches_of_one_and_of_many() -> None:
    network = BridgeTinySettings().build(embedding_dim=16, size_px=16)
    metrics = measured_efficiency(network, size_px=16, repeats=5)
    names = [f"efficiency/faces_per_second_batch_{size}" for size in (1, 128)]
    assert list(metrics) == [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    for name in names:
        assert 0 < metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]


@pytest.mark.usefixtures("two_threads")
def test_times_on_one_thread_and_gives_the_others_back() -> None:
    witness = Witness()
    measured_efficiency(witness, size_px=16, repeats=1)
    assert witness.threads == {1}
    assert witness.shapes == {(1, 3, 16, 16), (128, 3, 16, 16)}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_gives_threads_back_after_a_failure() -> None:
    witness = Witness()
    witness.fails = True
    with pytest.raises(RuntimeError, match="the network broke"):
        measured_efficiency(witness, size_px=16)
    assert torch.get_num_threads() == 2


def test_one_repeat_is_its_own_spread() -> None:
    metrics = measured_efficiency(Witness(), size_px=16, repeats=1)
    rates = [metrics[f"efficiency/faces_per_second_batch_1{end}"] for end in ("", "_low", "_high")]
    assert len(set(rates)) == 1


def test_timing_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    measured_efficiency(Witness(), size_px=16, repeats=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_refuses_to_time_a_network_that_is_elsewhere() -> None:
    with pytest.raises(InputError, match="measured on the CPU, the network is on meta"):
        measured_efficiency(iresnet((1, 1, 1, 1)), size_px=112)


def test_refuses_to_repeat_nothing() -> None:
    with pytest.raises(InputError, match="repeats must be at least 1, got 0"):
        measured_efficiency(Witness(), size_px=16, repeats=0)
