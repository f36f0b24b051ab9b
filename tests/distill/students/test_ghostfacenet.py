"""GhostFaceNet against the published network, and its parts against a reading by hand."""

import pytest
import torch
from torch import Tensor, nn

from distill.evaluation.efficiency import static_efficiency
from distill.students import GhostFaceNet, GhostFaceNetSettings
from distill.students.ghostfacenet import GhostBottleneck, GhostModule, SqueezeExcite, multiple_of_four


def published() -> GhostFaceNet:
    with torch.device("meta"):
        return GhostFaceNetSettings().build(embedding_dim=512, size_px=112)


def test_has_the_published_number_of_weights() -> None:
    network = published()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    statistics = sum(buffer.numel() for name, buffer in network.named_buffers() if "running" in name)
    assert parameters == 4_037_836
    assert parameters + statistics == 4_066_388  # as Keras counts
    assert len(network.state_dict()) == 561


def test_takes_59_million_multiply_adds() -> None:
    assert static_efficiency(published(), size_px=112)["efficiency/macs"] == 59_316_222


def test_has_the_published_cost() -> None:
    # TensorFlow's profiler counts two operations a multiply-add and a PReLU, one for an addend of a mean, a
    # product and a bias; the paper prints half of the sum, 60.3 M.
    network = published().eval()
    operations = 0

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal operations
        if isinstance(module, nn.Conv2d | nn.Linear):
            operations += 2 * output.numel() * module.weight[0].numel()
            operations += 0 if module.bias is None else output.numel()
        elif isinstance(module, nn.PReLU | SqueezeExcite):
            operations += 2 * output.numel()

    for module in network.modules():
        module.register_forward_hook(count)
    network(torch.empty(1, 3, 112, 112, device="meta"))
    assert operations / 2e6 == pytest.approx(60.3, abs=0.05)


def test_has_the_published_widths_and_maps() -> None:
    network = published().eval()
    shapes: list[tuple[int, ...]] = []
    hidden: list[int] = []
    for block in network.blocks:
        assert isinstance(block, GhostBottleneck)
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:3])))
        block.widen.register_forward_hook(lambda module, inputs, output: hidden.append(output.shape[1]))
    network(torch.empty(1, 3, 112, 112, device="meta"))
    assert [width for width, _ in shapes] == [20, *[32] * 2, *[52] * 2, *[104] * 4, *[144] * 2, *[208] * 5]
    assert [side for _, side in shapes] == [56, *[28] * 2, *[14] * 2, *[7] * 6, *[4] * 5]
    assert hidden == [20, 64, 92, 92, 156, 312, 260, 240, 240, 624, 872, 872, 1248, 1248, 1248, 664]
    gates = {name for name, module in network.named_modules() if isinstance(module, SqueezeExcite)}
    assert gates == {f"blocks.{index}.gate" for index in (3, 4, 9, 10, 11, 13, 15)}


def test_widths_are_multiples_of_four_and_hardly_below_what_was_asked() -> None:
    assert [multiple_of_four(width) for width in (0.5, 7, 9, 20.8, 93.6, 665.6)] == [4, 8, 12, 20, 92, 664]


def normalised(x: Tensor) -> Tensor:
    return (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5
    ).sqrt()


@pytest.mark.parametrize("prelu", [True, False])
def test_half_of_the_channels_are_filtered_copies_of_the_others(prelu: bool) -> None:
    torch.manual_seed(0)
    module = GhostModule(3, 8, prelu=prelu).double()
    output = module(torch.randn(2, 3, 5, 5).double())
    primary, ghosts = output[:, :4], output[:, 4:]
    kernels = module.state_dict()["cheap.conv.weight"]
    for index in range(4):
        channel = torch.conv2d(primary[:, index : index + 1], kernels[index : index + 1], padding=1)
        expected = normalised(channel)
        if prelu:
            expected = torch.where(expected > 0, expected, 0.25 * expected)
        torch.testing.assert_close(ghosts[:, index : index + 1], expected)


def test_primary_channels_mix_the_input() -> None:
    torch.manual_seed(0)
    module = GhostModule(3, 8, prelu=False).double()
    x = torch.randn(2, 3, 5, 5).double()
    mixing = module.state_dict()["primary.conv.weight"][:, :, 0, 0]
    torch.testing.assert_close(module(x)[:, :4], normalised(torch.einsum("ok,bkhw->bohw", mixing, x)))


def test_a_gate_scales_each_channel_by_what_all_hold_on_average() -> None:
    torch.manual_seed(0)
    gate = SqueezeExcite(16).double()
    x = torch.randn(2, 16, 3, 3).double() * 5
    weights = gate.state_dict()
    for image, gated in zip(x, gate(x), strict=True):
        squeezed = weights["reduce.weight"][:, :, 0, 0] @ image.mean(dim=(1, 2)) + weights["reduce.bias"]
        squeezed = torch.where(squeezed > 0, squeezed, 0.25 * squeezed)
        logits = weights["expand.weight"][:, :, 0, 0] @ squeezed + weights["expand.bias"]
        for channel, (before, after) in enumerate(zip(image, gated, strict=True)):
            factor = min(1.0, max(0.0, 0.2 * logits[channel].item() + 0.5))
            torch.testing.assert_close(after, factor * before)


def test_a_bottleneck_that_keeps_the_shape_adds_its_input() -> None:
    torch.manual_seed(0)
    block = GhostBottleneck(8, 8, hidden=16, kernel=3, stride=1, gated=False).double()
    x = torch.randn(2, 8, 5, 5).double()
    torch.testing.assert_close(block(x), x + block.narrow(block.widen(x)))


@pytest.mark.parametrize(("width", "stride", "side"), [(8, 2, 3), (12, 1, 5)])
def test_a_bottleneck_projects_its_input_where_the_shape_changes(width: int, stride: int, side: int) -> None:
    block = GhostBottleneck(8, width, hidden=16, kernel=5, stride=stride, gated=True)
    assert isinstance(block.shortcut, nn.Sequential)
    assert block(torch.randn(2, 8, 5, 5)).shape == (2, width, side, side)


@pytest.mark.parametrize(("size_px", "side"), [(16, 4), (33, 5), (64, 4), (96, 6), (97, 4), (112, 4)])
def test_the_last_map_never_gets_smaller_than_published(size_px: int, side: int) -> None:
    with torch.device("meta"):
        network = GhostFaceNetSettings(width=0.5).build(embedding_dim=8, size_px=size_px)
        whole_map = network.pool[0]
    assert isinstance(whole_map, nn.Conv2d)
    assert whole_map.kernel_size == (side, side)
