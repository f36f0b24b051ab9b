"""The searchable student against counts by hand, and what each of its settings does."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from distill.evaluation import static_efficiency_of
from distill.maps import map_shapes
from distill.students import SearchableSettings
from distill.students.searchable import ACTIVATIONS, SearchableBlock, SqueezeExcite, StageShape

STAGES = (1, 2, 3, 4)
SHAPE = StageShape(width=16, depth=1, kernel=3, expansion=2.0, se=False)


def searchable(**settings: Any) -> SearchableSettings:
    return SearchableSettings.model_validate(settings)


def costs(settings: SearchableSettings, *, size_px: int = 32) -> tuple[float, float]:
    efficiency = static_efficiency_of(settings, embedding_dim=128, size_px=size_px)
    return efficiency["efficiency/parameters"], efficiency["efficiency/macs"]


def counted_by_hand(settings: SearchableSettings) -> tuple[int, int]:
    """Parameters and multiply-adds at 32 px with D = 128, whose maps have 16, 16, 8, 4 and 4 px."""
    slope = 1 if settings.activation == "prelu" else 0
    parameters = 27 * settings.stem + (2 + slope) * settings.stem
    macs = 27 * settings.stem * 16**2
    before, map_px = settings.stem, 16
    values = settings.model_dump()
    for stage, stage_px in zip(STAGES, (16, 8, 4, 4), strict=True):
        width, kernel, expansion = (values[f"{knob}{stage}"] for knob in ("width", "kernel", "expansion"))
        for _ in range(values[f"depth{stage}"]):
            hidden = before if expansion == 1 else max(8, round(before * expansion / 8) * 8)
            if expansion > 1:
                parameters += before * hidden + (2 + slope) * hidden
                macs += before * hidden * map_px**2
            parameters += kernel**2 * hidden + (2 + slope) * hidden + hidden * width + 2 * width
            macs += (kernel**2 * hidden + hidden * width) * stage_px**2
            if values[f"se{stage}"]:
                squeezed = max(8, round(hidden / 4 / 8) * 8)
                parameters += 2 * hidden * squeezed + squeezed + hidden
                macs += 2 * hidden * squeezed
            before, map_px = width, stage_px
    if settings.head == "gdc":
        parameters += 16 * before + 2 * before
        macs += 16 * before
    return parameters + before * 128 + 128, macs + before * 128


VARIED = [
    {},
    {"activation": "silu", "head": "pool"},
    {"stem": 16, "width1": 24, "width2": 40, "width3": 80, "width4": 200, "expansion1": 1.0},
    {"kernel1": 5, "kernel2": 7, "kernel3": 5, "kernel4": 7, "depth1": 2, "depth4": 1},
    {"se1": True, "se2": True, "se3": True, "se4": True, "expansion2": 2.6, "activation": "hardswish"},
]


@pytest.mark.parametrize("settings", VARIED)
def test_costs_what_its_layers_do(settings: dict[str, Any]) -> None:
    assert costs(searchable(**settings)) == counted_by_hand(searchable(**settings))


def test_is_as_small_as_it_says() -> None:
    assert costs(searchable()) == (479_680, 11_226_112)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("knob", "values"),
    [
        ("width", (16, 64, 256)),
        ("depth", (1, 4, 8)),
        ("kernel", (3, 5, 7)),
        ("expansion", (1.0, 3.0, 6.0)),
        ("se", (False, True)),
    ],
)
def test_more_of_a_stage_costs_more(knob: str, values: tuple[Any, ...], stage: int) -> None:
    for counts in zip(*(costs(searchable(**{f"{knob}{stage}": value})) for value in values), strict=True):
        assert list(counts) == sorted(set(counts))


def test_a_wider_stem_costs_more_and_a_pool_less() -> None:
    for narrow, wide in zip(costs(searchable(stem=16)), costs(searchable(stem=48)), strict=True):
        assert narrow < wide
    for pooled, weighed in zip(costs(searchable(head="pool")), costs(searchable(head="gdc")), strict=True):
        assert pooled < weighed


def test_only_slopes_are_learned_by_an_activation() -> None:
    with_slopes, macs = costs(searchable(activation="prelu"))
    for activation in ("relu", "hardswish", "silu"):
        parameters, same_macs = costs(searchable(activation=activation))
        assert parameters < with_slopes
        assert same_macs == macs


@pytest.mark.parametrize(
    ("activation", "at_one", "at_minus_one"),
    [("prelu", 1.0, -0.25), ("relu", 1.0, 0.0), ("hardswish", 4 / 6, -2 / 6), ("silu", 0.731059, -0.268941)],
)
def test_activations_bend_as_they_are_called(activation: Any, at_one: float, at_minus_one: float) -> None:
    bent = ACTIVATIONS[activation](1)(torch.tensor([[1.0], [-1.0]]))
    assert bent.flatten().tolist() == pytest.approx([at_one, at_minus_one], abs=1e-5)


def test_a_gate_scales_channels_by_what_the_means_of_all_say() -> None:
    gate = SqueezeExcite(8)
    for layer in (gate.reduce, gate.expand):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    gate.reduce.weight.data[0, :2] = torch.tensor([1.0, 2.0])
    gate.expand.weight.data[0, 0] = 0.5
    gate.expand.bias.data[1], gate.expand.bias.data[2] = 9.0, -9.0
    x = torch.zeros(1, 8, 2, 2)
    x[0, 0], x[0, 1], x[0, 2], x[0, 3] = torch.tensor([[0.0, 2.0], [1.0, 1.0]]), -0.25, 5.0, 7.0
    # means of 1 and -0.25 squeeze to 0.5, which excites the first channel by 0.25; a gate is x / 6 + 1 / 2
    gated = gate(x)[0]
    torch.testing.assert_close(gated[0], x[0, 0] * (0.25 / 6 + 0.5))
    torch.testing.assert_close(gated[1], x[0, 1])  # wide open
    torch.testing.assert_close(gated[2], torch.zeros(2, 2))  # shut
    torch.testing.assert_close(gated[3], x[0, 3] * 0.5)


@pytest.mark.parametrize(("in_width", "stride", "adds"), [(16, 1, True), (16, 2, False), (24, 1, False)])
def test_a_block_adds_its_input_where_the_shape_stays(in_width: int, stride: int, adds: bool) -> None:
    block = SearchableBlock(in_width, SHAPE, stride=stride, activation="relu").eval()
    nn.init.zeros_(
        block.get_parameter(f"layers.{len(block.layers) - 1}.bn.weight")
    )  # the residual branch is silent
    x = torch.randn(2, in_width, 6, 6)
    assert torch.equal(block(x), x if adds else torch.zeros(2, 16, 6 // stride, 6 // stride))


@pytest.mark.parametrize(
    ("size_px", "maps_px"), [(112, [56, 28, 14, 7]), (32, [16, 8, 4, 4]), (16, [8, 4, 4, 4])]
)
def test_stages_halve_the_map_as_other_students_do(size_px: int, maps_px: list[int]) -> None:
    network = searchable().build(embedding_dim=8, size_px=size_px)
    shapes = map_shapes(network, size_px=size_px)
    assert [width for width, _, _ in shapes] == [32, 48, 96, 128]
    assert [height for _, height, _ in shapes] == maps_px


def end(name: str, *, side: str) -> Any:
    """The lowest or the highest value of a setting; None for one of words."""
    field = SearchableSettings.model_fields[name]
    if name.startswith("kernel"):
        return {"ge": 3, "le": 7}[side]
    if field.annotation is bool:
        return side == "le"
    return next((getattr(limit, side) for limit in field.metadata if hasattr(limit, side)), None)


@pytest.mark.parametrize("side", ["ge", "le"])
def test_both_ends_of_every_number_build(side: str) -> None:
    ends = {name: end(name, side=side) for name in SearchableSettings.model_fields}
    numbers = {name: value for name, value in ends.items() if value is not None}
    assert len(numbers) == 1 + 4 * 5
    settings = searchable(**numbers)
    assert costs(settings) == counted_by_hand(settings)


def test_one_architecture_takes_the_weights_of_its_like_and_no_others() -> None:
    settings = searchable(depth2=1, se3=True)
    first, second = (settings.build(embedding_dim=8, size_px=32).eval() for _ in range(2))
    faces = torch.rand(2, 3, 32, 32) * 2 - 1
    assert not torch.equal(first(faces), second(faces))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(faces), second(faces))
    other = searchable(depth2=2, se3=True).build(embedding_dim=8, size_px=32)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(first.state_dict())


def test_pooled_students_serve_every_size() -> None:
    network = searchable(head="pool").build(embedding_dim=8, size_px=32).eval()
    assert network(torch.zeros(1, 3, 112, 112)).shape == (1, 8)


@pytest.mark.parametrize("settings", [{"kernel2": 4}, {"width1": 4}, {"expansion3": 0.5}, {"depth4": 0}])
def test_refuses_what_is_no_stage(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        searchable(**settings)
