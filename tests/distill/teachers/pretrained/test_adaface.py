"""AdaFace's IR networks: counted by hand, and against a block written out."""

import pytest
import torch
import torch.nn.functional as F

from distill.teachers.pretrained import AdaFaceIR
from distill.teachers.pretrained.adaface import IRBlock

WIDTHS = (64, 128, 256, 512)
PUBLISHED = [(2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 14, 3), (3, 13, 30, 3)]


def published(blocks: tuple[int, ...]) -> AdaFaceIR:
    with torch.device("meta"):
        return AdaFaceIR(blocks=blocks, widths=WIDTHS, embedding_dim=512, size_px=112)


def parameters_by_hand(blocks: tuple[int, ...]) -> int:
    """3x3 convolutions, BNs of two numbers a channel and PReLUs, layer by layer."""
    count, in_width = 3 * 64 * 9 + 2 * 64 + 64, 64
    for num_blocks, width in zip(blocks, WIDTHS, strict=True):
        for _ in range(num_blocks):
            count += 2 * in_width + in_width * width * 9 + 2 * width + width + width * width * 9 + 2 * width
            count += in_width * width + 2 * width if in_width != width else 0
            in_width = width
    return count + 2 * 512 + (512 * 7 * 7 + 1) * 512


def keys_by_hand(blocks: tuple[int, ...]) -> int:
    """7 of the stem; 18 a block (BNs have 5, of which it has three); 6 a projection; 10 of the head."""
    return 7 + 18 * sum(blocks) + 3 * 6 + 10


@pytest.mark.parametrize("blocks", PUBLISHED)
def test_has_as_many_weights_as_its_layers_add_up_to(blocks: tuple[int, ...]) -> None:
    network = published(blocks)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters_by_hand(blocks)
    assert len(network.state_dict()) == keys_by_hand(blocks)


def test_names_its_weights_as_adaface_does() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in published((3, 13, 30, 3)).state_dict().items()}
    expected = {
        "input_layer.0.weight": (64, 3, 3, 3),
        "input_layer.1.running_mean": (64,),
        "input_layer.2.weight": (64,),
        "body.0.res_layer.0.weight": (64,),
        "body.0.res_layer.1.weight": (64, 64, 3, 3),
        "body.0.res_layer.3.weight": (64,),
        "body.0.res_layer.5.bias": (64,),
        "body.3.shortcut_layer.0.weight": (128, 64, 1, 1),
        "body.3.shortcut_layer.1.running_var": (128,),
        "body.16.shortcut_layer.0.weight": (256, 128, 1, 1),
        "body.46.shortcut_layer.0.weight": (512, 256, 1, 1),
        "body.48.res_layer.4.weight": (512, 512, 3, 3),
        "output_layer.0.weight": (512,),
        "output_layer.3.weight": (512, 25_088),
        "output_layer.3.bias": (512,),
        "output_layer.4.running_mean": (512,),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert {name.split(".")[1] for name in shapes if "shortcut_layer" in name} == {"3", "16", "46"}
    assert "output_layer.4.weight" not in shapes


def test_a_block_that_keeps_its_width_drops_pixels_beside_two_convolutions() -> None:
    torch.manual_seed(0)
    block = IRBlock(4, 4, stride=2).eval()
    first, second = block.res_layer.get_parameter("1.weight"), block.res_layer.get_parameter("4.weight")
    x = torch.randn(2, 4, 6, 6)
    root = (1 + 1e-5) ** 0.5  # what BN divides by before it has met a batch
    hidden = F.conv2d(x / root, first, padding=1) / root
    hidden = torch.where(hidden > 0, hidden, 0.25 * hidden)
    expected = x[:, :, ::2, ::2] + F.conv2d(hidden, second, stride=2, padding=1) / root
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_stages_end_where_the_width_changes() -> None:
    network = AdaFaceIR(blocks=(3, 2, 1, 2), widths=(8, 16, 24, 32), embedding_dim=4, size_px=112)
    assert network.stage_names == ("body.2", "body.4", "body.5", "body.7")
    images = torch.zeros(1, 3, 112, 112)
    for end, (width, side) in zip((3, 5, 6, 8), ((8, 56), (16, 28), (24, 14), (32, 7)), strict=True):
        assert network.body[:end](network.input_layer(images)).shape == (1, width, side, side)


def test_refuses_another_number_of_stages() -> None:
    with pytest.raises(ValueError, match="four stages"):
        AdaFaceIR(blocks=(1, 1), widths=(8, 16), embedding_dim=4, size_px=32)
