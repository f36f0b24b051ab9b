"""Published networks are recognised by their names and shapes alone, and rebuilt exactly."""

import pytest
import torch

from distill.students import IResNet, MbfSettings, MobileFaceNet
from distill.teachers.pretrained import AdaFaceIR
from distill.teachers.pretrained.families import FAMILIES, KnownFamily

WIDTHS = (64, 128, 256, 512)
SIZES = {"embedding_dim": 512, "size_px": 112}


def iresnet(*blocks: int) -> IResNet:
    return IResNet(blocks=blocks, widths=WIDTHS, **SIZES)


with torch.device("meta"):
    PUBLISHED: list[tuple[KnownFamily, torch.nn.Module, int, int]] = [
        ("iresnet", iresnet(2, 2, 2, 2), 24_025_600, 187),
        ("iresnet", iresnet(3, 4, 6, 3), 34_139_328, 331),
        ("iresnet_mxnet", iresnet(3, 4, 14, 3), 43_590_848, 475),
        ("iresnet", iresnet(3, 13, 30, 3), 65_156_160, 925),
        ("iresnet", iresnet(6, 26, 60, 6), 118_833_920, 1_807),
        ("mbf", MbfSettings().build(**SIZES), 2_059_520, 333),
        ("mbf", MbfSettings(size="large").build(**SIZES), 6_314_880, 606),
        ("mobilefacenet", MobileFaceNet(width=1.0, **SIZES), 1_199_488, 331),
        ("adaface", AdaFaceIR(blocks=(3, 13, 30, 3), widths=WIDTHS, **SIZES), 65_150_912, 917),
    ]


@pytest.mark.parametrize(("family", "network", "parameters", "entries"), PUBLISHED)
def test_shapes_are_enough_to_rebuild_a_published_network(
    family: KnownFamily, network: torch.nn.Module, parameters: int, entries: int
) -> None:
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    with torch.device("meta"):
        rebuilt = FAMILIES[family].build(shapes, 112)
    assert {name: tensor.shape for name, tensor in rebuilt.state_dict().items()} == shapes
    assert sum(parameter.numel() for parameter in rebuilt.parameters()) == parameters
    assert len(shapes) == entries


@pytest.mark.parametrize("family", FAMILIES)
def test_a_landmark_is_in_no_other_family(family: KnownFamily) -> None:
    landmark = FAMILIES[family].landmark
    for other, network, *_ in PUBLISHED:
        names = [name for name in network.state_dict() if name.endswith(landmark)]
        assert names == ([landmark] if FAMILIES[other].landmark == landmark else [])
