"""What every student must do. A student named in `AnyStudentSettings` is tested here for free."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from distill.errors import InputError
from distill.students import AnyStudentSettings, StudentSettings
from distill.students.base import map_size, scaled_width, stage_strides

SETTINGS = get_args(get_args(AnyStudentSettings)[0])
SCALABLE = [settings for settings in SETTINGS if "width" in settings.model_fields]
SIZES_PX = (16, 33, 112)


@pytest.fixture(params=SETTINGS, ids=lambda settings: settings.__name__)
def settings(request: pytest.FixtureRequest) -> StudentSettings:
    return request.param()


def build(settings: StudentSettings, *, embedding_dim: int, size_px: int) -> nn.Module:
    """The student, or a skipped test where the library that it is made of is absent."""
    try:
        return settings.build(embedding_dim=embedding_dim, size_px=size_px)
    except InputError as error:
        pytest.skip(str(error))


def images(size_px: int, *, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, size_px, size_px, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("size_px", SIZES_PX)
def test_embeds_faces_of_any_size(settings: StudentSettings, size_px: int) -> None:
    network = build(settings, embedding_dim=24, size_px=size_px)
    assert network(images(size_px)).shape == (2, 24)


@pytest.mark.parametrize("size_px", SIZES_PX)
def test_every_trainable_weight_takes_part(settings: StudentSettings, size_px: int) -> None:
    network = build(settings, embedding_dim=24, size_px=size_px)
    network(images(size_px, batch=4)).square().mul(torch.randn(4, 24)).sum().backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_the_seed_decides_the_weights(settings: StudentSettings) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build(settings, embedding_dim=24, size_px=32).state_dict())
    first, same, other = states
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_signal_survives_fresh_weights(settings: StudentSettings) -> None:
    torch.manual_seed(0)
    network = build(settings, embedding_dim=64, size_px=32)
    embedding = network(images(32, batch=32))
    assert 0.1 < embedding.std().item() < 10


def test_an_embedding_does_not_depend_on_the_batch_in_evaluation(settings: StudentSettings) -> None:
    # In double precision only a true dependence shows, not the order in which kernels add.
    network = build(settings, embedding_dim=24, size_px=32).eval().double()
    faces = images(32, batch=6).double()
    with torch.no_grad():
        together, alone = network(faces)[3], network(faces[3:4])[0]
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


def test_is_read_back_from_its_own_words(settings: StudentSettings) -> None:
    adapter = TypeAdapter(AnyStudentSettings)
    assert adapter.validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize("bound", ["ge", "le"])
@pytest.mark.parametrize("scalable", SCALABLE, ids=lambda settings: settings.__name__)
def test_both_ends_of_every_width_build(scalable: type[StudentSettings], bound: str) -> None:
    limits = scalable.model_fields["width"].metadata
    (end,) = (getattr(limit, bound) for limit in limits if hasattr(limit, bound))
    network = build(scalable.model_validate({"width": end}), embedding_dim=24, size_px=32)
    assert network(images(32)).shape == (2, 24)


def test_an_unknown_student_is_answered_with_the_known_ones() -> None:
    known = ", ".join(repr(settings.model_fields["name"].default) for settings in SETTINGS)
    with pytest.raises(ValidationError, match=known):
        TypeAdapter(AnyStudentSettings).validate_python({"name": "resnet"})


def test_a_face_of_112_px_is_halved_as_published() -> None:
    assert stage_strides(112, num_stages=4) == (2, 2, 2, 2)
    assert map_size(112, (2, 2, 2, 2)) == 7


def test_the_last_map_keeps_four_to_seven_pixels() -> None:
    maps = {size_px: map_size(size_px, stage_strides(size_px, num_stages=4)) for size_px in range(16, 113)}
    assert set(maps.values()) == {4, 5, 6, 7}


def test_refuses_a_face_too_small_to_halve() -> None:
    with pytest.raises(ValueError, match="size_px must be at least 16, got 15"):
        stage_strides(15, num_stages=4)


def test_scaled_widths_are_multiples_of_eight() -> None:
    assert [scaled_width(64, factor) for factor in (0.01, 0.5, 0.7, 1.0, 2.0)] == [8, 32, 48, 64, 128]
