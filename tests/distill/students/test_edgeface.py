"""EdgeFace against the published network, and part by part against what its equations say."""

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from distill.evaluation import static_efficiency, static_efficiency_of
from distill.maps import map_shapes
from distill.students import EdgeFace, EdgeFaceSettings
from distill.students.edgeface import (
    AttentionEncoder,
    ConvolutionEncoder,
    CrossCovarianceAttention,
    LowRankLinear,
    PositionCode,
)


def published() -> EdgeFace:
    with torch.device("meta"):
        return EdgeFaceSettings().build(embedding_dim=512, size_px=112)


def shaken(network: nn.Module) -> nn.Module:
    """The network with random numbers for every parameter, so that none can hide behind a zero or a one."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.double().eval()


def test_has_the_published_number_of_weights() -> None:
    network = published()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_770_492  # 1.77 M in the paper
    assert len(network.state_dict()) == 257


def test_takes_the_published_multiply_adds() -> None:
    macs = static_efficiency(published(), size_px=112)["efficiency/macs"]
    assert macs == 76_080_916
    network = EdgeFaceSettings().build(embedding_dim=512, size_px=112)
    attention: list[float] = []
    normalised: list[int] = []

    def note_products(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        places, channels = output.shape[1:]
        attention.append(2 * places * channels * channels / 4)  # in four heads, with keys and with values

    for module in network.modules():
        if isinstance(module, CrossCovarianceAttention):
            module.register_forward_hook(note_products)
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda _module, _inputs, output: normalised.append(output.numel()))
    network.eval()(torch.zeros(1, 3, 112, 112))
    # The paper's 154.0 M FLOPs are two for each multiply-add, those of attention included.
    assert 2 * (macs + sum(attention)) / 1e6 == pytest.approx(154.0, rel=2e-3)
    # The official network measures 78.1 M where five more are counted for each normalised value.
    assert (macs + sum(attention) + 5 * sum(normalised)) / 1e6 == pytest.approx(78.1, abs=0.05)


def test_names_its_weights_as_the_published_network_does() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in published().state_dict().items()}
    expected = {
        "stem.0.weight": (32, 3, 4, 4),
        "stem.1.bias": (32,),
        "stages.0.blocks.2.conv_dw.weight": (32, 1, 3, 3),
        "stages.1.downsample.0.weight": (32,),
        "stages.1.downsample.1.weight": (64, 32, 2, 2),
        "stages.1.blocks.2.convs.0.weight": (32, 1, 3, 3),
        "stages.1.blocks.2.pos_embd.token_projection.weight": (64, 64, 1, 1),
        "stages.2.blocks.7.mlp.fc1.linear1.weight": (60, 100),
        "stages.2.blocks.8.convs.1.weight": (34, 1, 3, 3),
        "stages.2.blocks.8.xca.temperature": (4, 1, 1),
        "stages.2.blocks.8.xca.qkv.linear2.bias": (300,),
        "stages.3.blocks.1.conv_dw.weight": (192, 1, 9, 9),
        "stages.3.blocks.2.gamma_xca": (192,),
        "head.norm.weight": (192,),
        "head.fc.linear1.weight": (115, 192),
        "head.fc.linear2.weight": (512, 115),
    }
    assert {name: shapes.get(name) for name in expected} == expected


def test_embeds_as_timms_network_with_low_rank_layers_does(timm: ModuleType) -> None:
    def lower_rank(network: nn.Module) -> None:
        for name, module in network.named_children():
            if isinstance(module, nn.Linear):
                setattr(network, name, LowRankLinear(module.in_features, module.out_features, gamma=0.6))
            else:
                lower_rank(module)

    reference = timm.create_model("edgenext_x_small", num_classes=512)
    lower_rank(reference)
    torch.manual_seed(0)
    shaken(reference)
    network = EdgeFaceSettings().build(embedding_dim=512, size_px=112).double().eval()
    network.load_state_dict(reference.state_dict())
    faces = torch.rand(2, 3, 112, 112, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        expected = reference(faces)
        assert (expected[0] - expected[1]).abs().max() > 0.01
        torch.testing.assert_close(network(faces), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("in_width", "width", "gamma", "rank"), [(192, 512, 0.6, 115), (64, 24, 0.5, 12), (6, 6, 0.2, 2)]
)
def test_a_low_rank_layer_is_the_product_of_two(in_width: int, width: int, gamma: float, rank: int) -> None:
    torch.manual_seed(0)
    layer = LowRankLinear(in_width, width, gamma=gamma).double()
    matrix = layer.linear2.weight @ layer.linear1.weight
    assert matrix.shape == (width, in_width)
    assert torch.linalg.matrix_rank(matrix) == rank
    x = torch.randn(5, in_width, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ matrix.T + layer.linear2.bias)


def test_attention_weighs_channels_by_their_cosine_over_all_places() -> None:
    torch.manual_seed(0)
    attention = CrossCovarianceAttention(8, gamma=1.0)
    shaken(attention)
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    query, key, value = attention.qkv(x)[0].T.split(8)  # channels x places each
    attended = torch.empty(8, 5, dtype=torch.float64)
    for channel in range(8):
        head = channel // 2
        rivals = range(2 * head, 2 * head + 2)
        scores = [
            query[channel] @ key[rival] / (query[channel].norm() * key[rival].norm()) for rival in rivals
        ]
        weights = [math.exp(attention.temperature[head, 0, 0].item() * score.item()) for score in scores]
        attended[channel] = sum(
            weight / sum(weights) * value[rival] for weight, rival in zip(weights, rivals, strict=True)
        )
    torch.testing.assert_close(attention(x), attention.proj(attended.T)[None])


def test_a_place_is_told_by_waves_of_its_row_and_its_column() -> None:
    code = PositionCode(64).double()
    code.token_projection.bias = None
    code.token_projection.weight.data = torch.eye(64, dtype=torch.float64)[:, :, None, None]
    told = code(torch.zeros(3, 64, 4, 6, dtype=torch.float64))
    assert told.shape == (1, 64, 4, 6)
    row, column = 2 * math.pi * 2 / 4, 2 * math.pi * 5 / 6  # the second of four, the fifth of six
    for wave in (0, 1, 15):
        slower = 10_000 ** (wave / 16)
        expected = [math.sin(row / slower), math.cos(row / slower)]
        expected += [math.sin(column / slower), math.cos(column / slower)]
        found = told[0, [2 * wave, 2 * wave + 1, 32 + 2 * wave, 33 + 2 * wave], 1, 4].tolist()
        assert found == pytest.approx(expected, abs=1e-5)


def test_each_part_of_the_channels_is_convolved_with_the_result_before_it() -> None:
    torch.manual_seed(0)
    encoder = AttentionEncoder(20, num_parts=3, has_position=False, gamma=1.0).double()
    nn.init.zeros_(encoder.gamma_xca)  # no attention
    nn.init.ones_(encoder.gamma)
    x = torch.randn(2, 20, 5, 5, dtype=torch.float64)
    first = encoder.convs[0](x[:, :7])
    second = encoder.convs[1](x[:, 7:14] + first)
    seen = torch.cat((first, second, x[:, 14:]), dim=1)
    expected = x + encoder.mlp(encoder.norm(seen.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    torch.testing.assert_close(encoder(x), expected)


def test_residual_branches_start_next_to_silent() -> None:
    x = torch.randn(2, 16, 5, 5)
    for encoder in (
        ConvolutionEncoder(16, kernel=3, gamma=0.5),
        AttentionEncoder(16, num_parts=2, has_position=True, gamma=0.5),
    ):
        difference = (encoder(x) - x).abs().max().item()
        assert 0 < difference < 1e-3


@pytest.mark.parametrize(
    ("size_px", "maps_px"),
    [(112, [28, 14, 7, 3]), (64, [16, 8, 4, 4]), (32, [8, 4, 4, 4]), (24, [6, 3, 3, 3]), (16, [4, 4, 4, 4])],
)
def test_a_small_face_keeps_a_map_of_three_pixels_or_more(size_px: int, maps_px: list[int]) -> None:
    network = EdgeFaceSettings().build(embedding_dim=8, size_px=size_px)
    assert [height for _, height, _ in map_shapes(network, size_px=size_px)] == maps_px


def test_a_higher_rank_takes_more() -> None:
    costs = [
        static_efficiency_of(EdgeFaceSettings(gamma=gamma), embedding_dim=128, size_px=32)
        for gamma in (0.2, 0.4, 0.6, 1.0)
    ]
    for name in ("efficiency/parameters", "efficiency/macs"):
        assert [cost[name] for cost in costs] == sorted({cost[name] for cost in costs})


def test_refuses_a_face_that_is_too_small() -> None:
    with pytest.raises(ValueError, match="size_px must be at least 16, got 15"):
        EdgeFaceSettings().build(embedding_dim=8, size_px=15)
