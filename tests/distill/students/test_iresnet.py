"""IResNet against the published networks, and as a student."""

import pytest
import torch
from torch import Tensor

from distill.students import IResNet, IResNetSettings, IResNetSmallSettings
from distill.students.iresnet import Depth, ResidualBlock

PUBLISHED: dict[Depth, tuple[int, int]] = {  # depth: parameters, entries of the state dictionary
    18: (24_025_600, 187),  # arcface_torch, 112 px, D = 512
    34: (34_139_328, 331),
    50: (43_590_848, 475),
    100: (65_156_160, 925),
}


def published(depth: Depth = 18) -> IResNet:
    with torch.device("meta"):
        return IResNetSettings(depth=depth).build(embedding_dim=512, size_px=112)


@pytest.mark.parametrize("depth", PUBLISHED)
def test_has_the_published_number_of_weights(depth: Depth) -> None:
    network = published(depth)
    assert (sum(p.numel() for p in network.parameters()), len(network.state_dict())) == PUBLISHED[depth]


def test_only_the_gain_of_the_embedding_is_frozen() -> None:
    frozen = [name for name, parameter in published().named_parameters() if not parameter.requires_grad]
    assert frozen == ["features.weight"]


def test_names_its_weights_as_arcface_torch_does() -> None:
    names = set(published().state_dict())
    assert names >= {
        "conv1.weight",
        "bn1.running_mean",
        "prelu.weight",
        "layer1.0.bn1.weight",
        "layer1.0.conv1.weight",
        "layer1.0.bn2.bias",
        "layer1.0.prelu.weight",
        "layer1.0.conv2.weight",
        "layer1.0.bn3.running_var",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.weight",
        "layer4.1.conv2.weight",
        "bn2.weight",
        "fc.weight",
        "fc.bias",
        "features.weight",
    }
    assert not any(name.startswith("layer1.1.downsample") for name in names)


def normalised(x: Tensor) -> Tensor:
    return (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5
    ).sqrt()


def test_a_block_adds_its_input_to_what_two_convolutions_make_of_it() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, stride=1, bn_eps=1e-5)
    x = torch.randn(2, 8, 6, 6)
    hidden = normalised(torch.conv2d(normalised(x), block.conv1.weight, padding=1))
    hidden = torch.where(hidden > 0, hidden, 0.25 * hidden)
    expected = x + normalised(torch.conv2d(hidden, block.conv2.weight, padding=1))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_a_shortcut_is_projected_where_the_shape_changes() -> None:
    assert ResidualBlock(8, 8, stride=1, bn_eps=1e-5).downsample is None
    for block in (ResidualBlock(8, 8, stride=2, bn_eps=1e-5), ResidualBlock(8, 16, stride=1, bn_eps=1e-5)):
        assert block.downsample is not None


def test_dropout_works_in_training_only() -> None:
    network = IResNet(blocks=(1, 1, 1, 1), widths=(8, 8, 8, 8), embedding_dim=4, size_px=16, dropout=0.5)
    faces = torch.randn(4, 3, 16, 16)
    assert not torch.equal(network(faces), network(faces))
    network.eval()
    assert torch.equal(network(faces), network(faces))


def test_the_settings_decide_how_much_is_dropped() -> None:
    network = IResNetSettings(width=0.25, dropout=0.4).build(embedding_dim=4, size_px=16)
    assert network.dropout.p == 0.4
    assert IResNetSettings().build(embedding_dim=4, size_px=16).dropout.p == 0.0


def test_a_narrow_student_has_a_share_of_the_published_widths() -> None:
    with torch.device("meta"):
        network = IResNetSettings(width=0.25).build(embedding_dim=512, size_px=112)
    widths = [network.state_dict()[f"layer{stage}.1.conv2.weight"].shape[0] for stage in (1, 2, 3, 4)]
    assert widths == [16, 32, 64, 128]


def test_refuses_another_number_of_stages() -> None:
    with pytest.raises(ValueError, match="four stages"):
        IResNet(blocks=(1, 1), widths=(8, 8), embedding_dim=4, size_px=32)


def test_the_small_student_is_as_small_as_it_says() -> None:
    student = IResNetSmallSettings().build(embedding_dim=128, size_px=32)
    assert sum(parameter.numel() for parameter in student.parameters()) == 571_120
