"""InsightFace's MobileFaceNets against the published networks."""

from typing import Literal

import pytest
import torch

from distill.students import Mbf, MbfSettings
from distill.students.mbf import ConvBlock, DepthWise


def published(size: Literal["base", "large"]) -> Mbf:
    with torch.device("meta"):
        return MbfSettings(size=size).build(embedding_dim=512, size_px=112)


@pytest.mark.parametrize(
    ("size", "parameters", "entries"), [("base", 2_059_520, 333), ("large", 6_314_880, 606)]
)
def test_has_the_published_number_of_weights(
    size: Literal["base", "large"], parameters: int, entries: int
) -> None:
    network = published(size)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert len(network.state_dict()) == entries


def test_names_its_weights_as_arcface_torch_does() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in published("base").state_dict().items()}
    expected = {
        "layers.0.layers.0.weight": (128, 3, 3, 3),
        "layers.0.layers.1.running_var": (128,),
        "layers.0.layers.2.weight": (128,),
        "layers.1.layers.0.weight": (128, 2, 3, 3),
        "layers.2.layers.0.layers.0.weight": (128, 128, 1, 1),
        "layers.2.layers.1.layers.0.weight": (128, 1, 3, 3),
        "layers.2.layers.1.layers.2.weight": (128,),
        "layers.2.layers.2.layers.0.weight": (128, 128, 1, 1),
        "layers.3.layers.3.layers.1.layers.0.weight": (128, 1, 3, 3),
        "layers.4.layers.0.layers.0.weight": (256, 128, 1, 1),
        "layers.4.layers.2.layers.0.weight": (256, 256, 1, 1),
        "layers.5.layers.5.layers.2.layers.1.bias": (256,),
        "layers.6.layers.1.layers.0.weight": (512, 1, 3, 3),
        "layers.7.layers.1.layers.0.layers.0.weight": (256, 256, 1, 1),
        "conv_sep.layers.0.weight": (512, 256, 1, 1),
        "features.layers.0.layers.0.weight": (512, 1, 7, 7),
        "features.layers.2.weight": (512, 512),
        "features.layers.3.running_mean": (512,),
    }
    assert {name: shapes.get(name) for name in expected} == expected


def test_the_large_one_starts_with_residual_units() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in published("large").state_dict().items()}
    assert shapes["layers.1.layers.1.layers.0.layers.0.weight"] == (128, 256, 1, 1)
    assert shapes["layers.5.layers.11.layers.2.layers.0.weight"] == (512, 256, 1, 1)
    assert shapes["conv_sep.layers.0.weight"] == (512, 512, 1, 1)


def test_a_face_of_112_px_ends_as_a_map_of_7() -> None:
    with torch.device("meta"):
        network = MbfSettings().build(embedding_dim=16, size_px=112)
        assert network.layers(torch.empty(1, 3, 112, 112)).shape == (1, 256, 7, 7)


def test_only_residual_units_add_their_input() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6)
    unit = DepthWise(8, 8, hidden=16, shortcut=True).eval()
    inner = unit.layers(x)
    assert torch.equal(unit(x), x + inner)
    unit.shortcut = False
    assert torch.equal(unit(x), inner)
    assert {m.shortcut for m in published("base").layers if isinstance(m, DepthWise)} == {False}


def test_what_leaves_a_unit_is_linear() -> None:
    assert not any(isinstance(m, torch.nn.PReLU) for m in ConvBlock(4, 4, prelu=False).modules())
    last = published("base").get_submodule("layers.2.layers.2")
    assert not any(isinstance(m, torch.nn.PReLU) for m in last.modules())


def test_refuses_another_number_of_stages() -> None:
    with pytest.raises(ValueError, match="four stages"):
        Mbf(blocks=(1, 1), scale=1, embedding_dim=4, size_px=32)
