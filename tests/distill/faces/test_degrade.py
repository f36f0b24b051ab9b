"""Claims of the low-resolution views."""

import pytest
import torch
from torch import Tensor

from distill.faces.degrade import (
    KERNELS,
    RESOLUTIONS_PX,
    Degradation,
    DegradationDraws,
    captured,
    degrade,
)

NEAREST, BILINEAR, AREA, BICUBIC = range(4)


def some_faces(num_faces: int, size_px: int) -> Tensor:
    return torch.rand(num_faces, 3, size_px, size_px, generator=torch.Generator().manual_seed(0)) * 2 - 1


def degraded(faces: Tensor, *, size_px: int, out_px: int, reduce: int, enlarge: int = NEAREST) -> Tensor:
    """All faces in one way."""
    return degrade(
        faces,
        size_px_B=torch.full((len(faces),), size_px),
        reduce_kernel_B=torch.full((len(faces),), reduce),
        enlarge_kernel_B=torch.full((len(faces),), enlarge),
        out_px=out_px,
    )


@pytest.fixture
def degradation() -> Degradation:
    return Degradation(resolutions_px=(8, 12, 16, 24), out_px=24)


@pytest.fixture
def draws(degradation: Degradation) -> DegradationDraws:
    return degradation.draw(64, torch.Generator().manual_seed(1))


def test_the_published_resolutions() -> None:
    assert RESOLUTIONS_PX == (16, 24, 32, 48, 64, 96)
    assert Degradation(out_px=112).resolutions_px == RESOLUTIONS_PX


@pytest.mark.parametrize("reduce", range(4), ids=KERNELS)
@pytest.mark.parametrize("size_px", [4, 7, 16])
@pytest.mark.parametrize("out_px", [16, 23])
def test_a_view_has_its_size_and_range(reduce: int, size_px: int, out_px: int) -> None:
    faces = some_faces(2, 16).sign()
    for enlarge in range(4):
        view = degraded(faces, size_px=size_px, out_px=out_px, reduce=reduce, enlarge=enlarge)
        assert view.shape == (2, 3, out_px, out_px)
        assert view.abs().max() <= 1


@pytest.mark.parametrize("reduce", range(4), ids=KERNELS)
def test_a_flat_face_stays_flat(reduce: int) -> None:
    for enlarge in range(4):
        view = degraded(
            torch.full((1, 3, 16, 16), 0.25), size_px=5, out_px=16, reduce=reduce, enlarge=enlarge
        )
        torch.testing.assert_close(view, torch.full_like(view, 0.25))


def test_area_reduces_to_the_mean_of_each_block() -> None:
    face = some_faces(1, 8)
    view = degraded(face, size_px=2, out_px=2, reduce=AREA)
    for channel in range(3):
        for row in range(2):
            for column in range(2):
                block = [
                    float(face[0, channel, 4 * row + y, 4 * column + x]) for y in range(4) for x in range(4)
                ]
                assert view[0, channel, row, column].item() == pytest.approx(sum(block) / 16, abs=1e-6)


def test_nearest_reduces_to_the_first_pixel_of_each_block() -> None:
    face = some_faces(1, 8)
    assert torch.equal(degraded(face, size_px=4, out_px=4, reduce=NEAREST), face[:, :, ::2, ::2])


def test_bilinear_reduces_with_a_kernel_as_wide_as_the_reduction() -> None:
    # Halving: each pixel is weighted with 2 less its distance in pixels, 0.5, 1.5: 3/8, 1/8 on each side.
    stripes = torch.zeros(1, 1, 8, 8)
    stripes[:, :, :, 3] = 0.8
    view = degraded(stripes, size_px=4, out_px=4, reduce=BILINEAR)
    torch.testing.assert_close(view[0, 0, 1], torch.tensor([0.0, 0.8 * 3 / 8, 0.8 / 8, 0.0]))


def test_bilinear_enlarges_on_straight_lines() -> None:
    # Doubling: centres lie a quarter of a pixel off, and stay flat beyond the outermost ones.
    edge = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]).view(1, 1, 2, 2)
    view = degraded(edge, size_px=2, out_px=4, reduce=AREA, enlarge=BILINEAR)
    torch.testing.assert_close(view[0, 0], torch.tensor([-1.0, -0.5, 0.5, 1.0]).expand(4, 4))


def test_nearest_enlarges_by_repeating_pixels() -> None:
    face = some_faces(2, 8)
    view = degraded(face, size_px=4, out_px=8, reduce=AREA, enlarge=NEAREST)
    small = degraded(face, size_px=4, out_px=4, reduce=AREA)
    assert torch.equal(view, small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


def test_bicubic_overshoots_and_is_clamped() -> None:
    edge = torch.ones(1, 1, 16, 16)
    edge[..., :8] = -1
    unclamped = torch.nn.functional.interpolate(edge, size=(6, 6), mode="bicubic", antialias=True)
    assert unclamped.max() > 1
    assert degraded(edge, size_px=6, out_px=6, reduce=BICUBIC).max() == 1


def test_kernels_count_in_each_direction() -> None:
    face = some_faces(1, 24)
    views = [
        degraded(face, size_px=8, out_px=24, reduce=reduce, enlarge=enlarge)
        for reduce in range(4)
        for enlarge in range(4)
    ]
    equal = [
        (first, second)
        for first in range(16)
        for second in range(first)
        if torch.equal(views[first], views[second])
    ]
    # Where the side is tripled, area repeats pixels as nearest does.
    assert {(first // 4, second // 4) for first, second in equal} == {(k, k) for k in range(4)}
    assert {(first % 4, second % 4) for first, second in equal} == {(AREA, NEAREST)}


def test_every_row_gets_its_own_draw_in_its_own_place(
    degradation: Degradation, draws: DegradationDraws
) -> None:
    faces = some_faces(64, 32)
    views = degradation(faces, draws)
    for row in range(64):
        size_px, reduce, enlarge = (
            int(tensor[row]) for tensor in (draws.size_px_B, draws.reduce_kernel_B, draws.enlarge_kernel_B)
        )
        alone = degraded(faces[row : row + 1], size_px=size_px, out_px=24, reduce=reduce, enlarge=enlarge)
        assert torch.equal(views[row], alone[0])


@pytest.mark.parametrize("rows", [slice(16, 32), torch.tensor([5, 3, 60])], ids=["slice", "index"])
def test_a_worker_s_rows_are_those_of_the_whole_batch(
    degradation: Degradation, draws: DegradationDraws, rows: slice | Tensor
) -> None:
    faces = some_faces(64, 32)
    assert torch.equal(degradation(faces[rows], draws[rows]), degradation(faces, draws)[rows])


def test_how_the_batch_lies_in_memory_changes_nothing(
    degradation: Degradation, draws: DegradationDraws
) -> None:
    faces = some_faces(64, 32)
    together = faces.contiguous(memory_format=torch.channels_last)
    assert torch.equal(degradation(together, draws), degradation(faces, draws))
    assert torch.equal(captured(together, 12), captured(faces, 12))


def test_draws_follow_the_seed(degradation: Degradation, draws: DegradationDraws) -> None:
    faces = some_faces(64, 32)
    again = degradation.draw(64, torch.Generator().manual_seed(1))
    other = degradation.draw(64, torch.Generator().manual_seed(2))
    assert torch.equal(degradation(faces, draws), degradation(faces, again))
    assert not torch.equal(degradation(faces, draws), degradation(faces, other))


def test_each_choice_is_drawn_equally_often_and_apart_from_the_others() -> None:
    degradation = Degradation(resolutions_px=(8, 16), out_px=16)
    draws = degradation.draw(32_000, torch.Generator().manual_seed(0))
    cells = (draws.size_px_B == 16) * 16 + draws.reduce_kernel_B * 4 + draws.enlarge_kernel_B
    counts = torch.bincount(cells, minlength=32)
    assert ((counts - 1000).abs() < 150).all()


def test_no_face_makes_no_view(degradation: Degradation) -> None:
    draws = degradation.draw(0, torch.Generator())
    assert len(draws) == 0
    assert degradation(torch.empty(0, 3, 32, 32), draws).shape == (0, 3, 24, 24)


def test_captured_is_the_bicubic_reduction() -> None:
    faces = some_faces(3, 32)
    assert torch.equal(captured(faces, 12), degraded(faces, size_px=12, out_px=12, reduce=BICUBIC))
    assert captured(faces, 12).shape == (3, 3, 12, 12)


def test_captured_at_full_size_is_the_face() -> None:
    faces = some_faces(3, 32)
    torch.testing.assert_close(captured(faces, 32), faces)


def test_bicubic_halves_with_the_cubic_kernel() -> None:
    # Keys' kernel of a = -1/2 at distances of 1/4, 3/4, 5/4 and 7/4 output pixels.
    inside = [1.5 * t**3 - 2.5 * t**2 + 1 for t in (0.25, 0.75)]
    outside = [-0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 for t in (1.25, 1.75)]
    weights = [weight / (2 * sum(inside + outside)) for weight in inside + outside]
    stripes = torch.zeros(1, 1, 16, 16)
    stripes[:, :, :, 8] = 0.5
    view = captured(stripes, 8)[0, 0, 3]
    # Column 8 lies 1/4 before the centre of view column 4, 3/4 behind that of column 3, and so on.
    expected = {4: weights[0], 3: weights[1], 5: weights[2], 2: weights[3]}
    for column in range(8):
        assert view[column].item() == pytest.approx(0.5 * expected.get(column, 0.0), abs=1e-6)


@pytest.mark.parametrize("size_px", [0, 33])
def test_captured_takes_no_more_pixels_than_there_are(size_px: int) -> None:
    with pytest.raises(ValueError, match=rf"size_px must lie in \[1, 32\].* got {size_px}"):
        captured(some_faces(1, 32), size_px)


@pytest.mark.parametrize("resolutions_px", [(), (0,), (16, 25)])
def test_resolutions_must_fit_the_view(resolutions_px: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"resolutions_px must name sides in \[1, out_px=24\]"):
        Degradation(resolutions_px=resolutions_px, out_px=24)


@pytest.mark.parametrize(
    ("size_px", "reduce", "enlarge", "problem"),
    [
        (9, 0, 0, r"size_px_B must lie in \[1, 8\], got 9"),
        (0, 0, 0, r"size_px_B must lie in \[1, 8\], got 0"),
        (4, 4, 0, r"reduce_kernel_B must lie in \[0, 3\], got 4"),
        (4, 0, -1, r"enlarge_kernel_B must lie in \[0, 3\], got -1"),
    ],
)
@pytest.mark.parametrize(("height", "out_px"), [(8, 16), (16, 8)])
def test_draws_must_fit_face_and_view(
    size_px: int, reduce: int, enlarge: int, problem: str, height: int, out_px: int
) -> None:
    with pytest.raises(ValueError, match=problem):
        degraded(some_faces(2, height), size_px=size_px, out_px=out_px, reduce=reduce, enlarge=enlarge)


def test_there_must_be_a_draw_for_every_face(degradation: Degradation, draws: DegradationDraws) -> None:
    with pytest.raises(ValueError, match=r"as many draws as faces \(5\), got 64"):
        degradation(some_faces(5, 32), draws)
