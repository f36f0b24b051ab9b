"""PocketNet against the published networks, and its cells against a reading of the wiring by hand."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from distill.evaluation.efficiency import static_efficiency
from distill.students import PocketNet, PocketNetSettings
from distill.students.pocketnet import NORMAL, REDUCTION, Cell, FactorizedReduction

Variant = Literal["s", "m"]
PUBLISHED: list[tuple[Variant, int, int, float]] = [  # variant, D, parameters, MFLOPs at 112 px
    ("s", 128, 925_632, 587.11),
    ("s", 256, 991_424, 587.24),
    ("m", 128, 1_686_656, 1099.02),
    ("m", 256, 1_752_448, 1099.16),
]


def published(variant: Variant = "s", *, embedding_dim: int = 128) -> PocketNet:
    with torch.device("meta"):
        return PocketNetSettings(variant=variant).build(embedding_dim=embedding_dim, size_px=112)


@pytest.mark.parametrize(("variant", "embedding_dim", "parameters", "megaflops"), PUBLISHED)
def test_has_the_published_size_and_cost(
    variant: Variant, embedding_dim: int, parameters: int, megaflops: float
) -> None:
    network = published(variant, embedding_dim=embedding_dim).eval()
    flops = 0

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal flops
        if isinstance(module, nn.Conv2d):
            flops += 2 * output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.BatchNorm2d):
            flops += 2 * output.numel()
        elif isinstance(module, nn.PReLU):
            flops += output.numel()
        elif isinstance(module, nn.MaxPool2d):
            flops += 9 * output.numel()

    for module in network.modules():
        module.register_forward_hook(count)
    network(torch.empty(1, 3, 112, 112, device="meta"))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert flops / 1e6 == pytest.approx(megaflops, abs=0.005)


def test_takes_284_million_multiply_adds() -> None:
    assert static_efficiency(published(), size_px=112)["efficiency/macs"] == 283_541_120


def test_names_its_weights_as_the_authors_do() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in published().state_dict().items()}
    expected = {
        "stem.0.weight": (64, 3, 3, 3),
        "stem.1.running_mean": (64,),
        "cells.0.preproc0.net.0.weight": (64,),
        "cells.0.preproc0.net.1.weight": (64, 1, 1, 1),
        "cells.0.preproc0.net.2.weight": (16, 64, 1, 1),
        "cells.0.preproc1.net.3.bias": (16,),
        "cells.0.dag.0.0.net.1.weight": (16, 1, 3, 3),
        "cells.0.dag.0.1.net.1.weight": (16, 1, 1, 1),
        "cells.0.dag.1.1.net.1.weight": (16, 1, 5, 5),
        "cells.6.dag.0.1.net.1.weight": (32, 1, 7, 7),
        "cells.6.dag.2.0.bn.weight": (32,),
        "cells.7.preproc0.relu.weight": (64,),
        "cells.7.preproc0.conv11.weight": (64, 1, 1, 1),
        "cells.7.preproc0.conv12.weight": (16, 64, 1, 1),
        "cells.7.preproc0.conv22.weight": (16, 64, 1, 1),
        "cells.7.preproc0.bn.running_var": (32,),
        "cells.17.dag.3.1.bn.weight": (128,),
        "tail.0.weight": (512,),
        "tail.1.weight": (512, 512, 1, 1),
        "tail.4.weight": (512, 1, 7, 7),
        "tail.6.weight": (128, 512, 1, 1),
        "tail.7.num_batches_tracked": (),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert len(shapes) == 1275
    assert not any(name.startswith("cells.0.dag.3.1") for name in shapes)  # a skip has no weights


def test_three_cells_halve_the_map() -> None:
    torch.manual_seed(0)
    network = PocketNetSettings(variant="m").build(embedding_dim=8, size_px=112).eval()
    sides: list[int] = []
    for cell in network.cells:
        cell.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    network(torch.zeros(1, 3, 112, 112))
    assert sides == [56, 56, 56, 28, 28, 28, 14, 14, 7]
    assert network.stage_names == ("cells.2", "cells.5", "cells.7", "cells.8")


def normalised(x: Tensor) -> Tensor:
    return (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5
    ).sqrt()


def bent(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.25 * x)


def filtered(weights: dict[str, Tensor], name: str, x: Tensor, *, stride: int = 1) -> Tensor:
    """A separable convolution by its weights, each channel filtered on its own."""
    kernels, mixing = weights[f"{name}.net.1.weight"], weights[f"{name}.net.2.weight"]
    channels = [
        torch.conv2d(channel, kernel[None], stride=stride, padding=kernel.shape[-1] // 2)
        for channel, kernel in zip(bent(x).split(1, dim=1), kernels, strict=True)
    ]
    mixed = torch.einsum("ok,bkhw->bohw", mixing[:, :, 0, 0], torch.cat(channels, dim=1))
    return normalised(mixed)


def pooled(x: Tensor) -> Tensor:
    padded = nn.functional.pad(x, (1, 1, 1, 1), value=-torch.inf)
    windows = padded.unfold(2, 3, 2).unfold(3, 3, 2)
    return normalised(windows.amax(dim=(-1, -2)))


def test_a_normal_cell_puts_out_its_four_nodes() -> None:
    torch.manual_seed(0)
    cell = Cell(NORMAL, (5, 7), 4, stride=1, halve_earlier=False).double()
    weights = cell.state_dict()
    earlier, last = torch.randn(3, 5, 6, 6).double(), torch.randn(3, 7, 6, 6).double()
    a, b = filtered(weights, "preproc0", earlier), filtered(weights, "preproc1", last)
    c = filtered(weights, "dag.0.0", a) + filtered(weights, "dag.0.1", b)
    d = filtered(weights, "dag.1.0", c) + filtered(weights, "dag.1.1", a)
    e = filtered(weights, "dag.2.0", d) + filtered(weights, "dag.2.1", a)
    f = filtered(weights, "dag.3.0", e) + a
    torch.testing.assert_close(cell(earlier, last), torch.cat([c, d, e, f], dim=1))


def test_a_reduction_halves_what_it_reads_of_other_cells() -> None:
    torch.manual_seed(0)
    cell = Cell(REDUCTION, (5, 7), 4, stride=2, halve_earlier=False).double()
    weights = cell.state_dict()
    earlier, last = torch.randn(3, 5, 6, 6).double(), torch.randn(3, 7, 6, 6).double()
    a, b = filtered(weights, "preproc0", earlier), filtered(weights, "preproc1", last)
    c = filtered(weights, "dag.0.0", b, stride=2) + filtered(weights, "dag.0.1", a, stride=2)
    d = c + filtered(weights, "dag.1.1", b, stride=2)
    e = pooled(a) + c
    f = pooled(a) + pooled(b)
    torch.testing.assert_close(cell(earlier, last), torch.cat([c, d, e, f], dim=1))


def test_a_factorized_reduction_sees_even_and_odd_rows() -> None:
    torch.manual_seed(0)
    reduction = FactorizedReduction(3, 4).double()
    x = torch.randn(2, 3, 6, 6).double()
    expected: list[Tensor] = []
    for first, (scales, mixing) in enumerate(
        ((reduction.conv11, reduction.conv12), (reduction.conv21, reduction.conv22))
    ):
        places = bent(x)[:, :, first::2, first::2] * scales.weight[:, 0, 0, 0].view(1, 3, 1, 1)
        expected.append(torch.einsum("ok,bkhw->bohw", mixing.weight[:, :, 0, 0], places))
    torch.testing.assert_close(reduction(x), normalised(torch.cat(expected, dim=1)))


def test_a_factorized_reduction_rounds_an_odd_side_up_as_convolutions_do() -> None:
    assert FactorizedReduction(3, 4)(torch.randn(2, 3, 7, 7)).shape == (2, 4, 4, 4)
