"""Claims of the augmentation of training faces."""

import pytest
import torch
from torch import Tensor

from distill.faces.augment import NUM_DRAWS, AugmentationSettings

EVERYTHING = AugmentationSettings(
    probability=0.7, least_area=0.3, brightness=0.4, contrast=0.4, saturation=0.4, erased_area=0.3
)
APPLIES, CROP, COLOURS, RECTANGLE = slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 13)


def some_faces(num_faces: int, size_px: int = 16) -> Tensor:
    return torch.rand(num_faces, 3, size_px, size_px, generator=torch.Generator().manual_seed(0)) * 2 - 1


def drawn(settings: AugmentationSettings, num_faces: int) -> Tensor:
    return settings.draw(num_faces, torch.Generator().manual_seed(1))


def row(part: slice, *numbers: float) -> Tensor:
    """Draws of one face: `numbers` in one part, and a half elsewhere; everything is applied."""
    draw_1K = torch.full((1, NUM_DRAWS), 0.5)
    draw_1K[0, APPLIES] = 0.0
    draw_1K[0, part] = torch.tensor(numbers)
    return draw_1K


def test_as_it_stands_nothing_is_changed() -> None:
    settings = AugmentationSettings()
    assert not settings.is_on
    assert torch.equal(settings.apply(some_faces(4), drawn(settings, 4)), some_faces(4))


@pytest.mark.parametrize(
    "strength",
    [{"least_area": 0.5}, {"brightness": 0.5}, {"contrast": 0.5}, {"saturation": 0.5}, {"erased_area": 0.5}],
    ids=lambda strength: next(iter(strength)),
)
def test_each_setting_changes_every_face_and_leaves_it_a_face(strength: dict[str, float]) -> None:
    settings = AugmentationSettings.model_validate(strength)
    faces = some_faces(32)
    changed = settings.apply(faces, drawn(settings, 32))
    assert settings.is_on
    assert changed.shape == faces.shape
    assert changed.abs().max() <= 1
    assert (changed != faces).flatten(1).any(1).all()


def test_a_face_is_changed_alike_whatever_else_the_batch_holds() -> None:
    faces, draw_BK = some_faces(24), drawn(EVERYTHING, 24)
    whole = EVERYTHING.apply(faces, draw_BK)
    for rows in (slice(0, 12), slice(12, 24), slice(7, 8)):
        assert torch.equal(whole[rows], EVERYTHING.apply(faces[rows], draw_BK[rows]))


def test_each_change_meets_the_share_of_faces_that_it_is_to_meet() -> None:
    settings = AugmentationSettings(probability=0.2, brightness=0.5)
    faces = some_faces(2000, size_px=2)
    changed = settings.apply(faces, drawn(settings, 2000))
    share = (changed != faces).flatten(1).any(1).double().mean().item()
    assert share == pytest.approx(0.2, abs=0.03)
    untouched = (changed == faces).flatten(1).all(1)
    assert torch.equal(changed[untouched], faces[untouched])


@pytest.mark.parametrize(("left", "top", "rows", "columns"), [(0, 0, 0, 0), (0, 1, 8, 0), (1, 0, 0, 8)])
def test_a_crop_of_a_quarter_is_that_quarter_enlarged(
    left: float, top: float, rows: int, columns: int
) -> None:
    faces = some_faces(1)
    changed = AugmentationSettings(least_area=0.25).apply(faces, row(CROP, 0.0, left, top))
    quarter = faces[..., rows : rows + 8, columns : columns + 8]
    expected = torch.nn.functional.interpolate(quarter, size=16, mode="bilinear", align_corners=False)
    # At its borders a crop goes on into the rest of the face, an enlarged quarter does not.
    torch.testing.assert_close(changed[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=0, atol=1e-5)


def test_brightness_is_multiplied() -> None:
    faces = torch.tensor([0.2, 0.4, 0.9])[None, :, None, None].expand(1, 3, 2, 2) * 2 - 1
    changed = AugmentationSettings(brightness=0.5).apply(faces, row(COLOURS, 0.75, 0.5, 0.5))
    torch.testing.assert_close((changed + 1)[0, :, 0, 0] / 2, torch.tensor([0.25, 0.5, 1.0]))


def test_contrast_is_about_the_mean_grey() -> None:
    faces = torch.tensor([[0.2, 0.6], [0.4, 0.4]]).expand(1, 3, 2, 2) * 2 - 1
    changed = AugmentationSettings(contrast=0.5).apply(faces, row(COLOURS, 0.5, 0.0, 0.5))
    expected = torch.tensor([[0.3, 0.5], [0.4, 0.4]]).expand(1, 3, 2, 2)
    torch.testing.assert_close((changed + 1) / 2, expected)


def test_saturation_is_about_each_pixels_grey() -> None:
    faces = torch.tensor([1.0, 0.5, 0.0])[None, :, None, None].expand(1, 3, 2, 2) * 2 - 1
    changed = AugmentationSettings(saturation=0.5).apply(faces, row(COLOURS, 0.5, 0.5, 0.0))
    grey = 0.299 * 1.0 + 0.587 * 0.5
    expected = torch.tensor([(1 + grey) / 2, (0.5 + grey) / 2, grey / 2])
    torch.testing.assert_close((changed + 1)[0, :, 1, 1] / 2, expected)


def test_a_rectangle_of_the_drawn_area_is_grey_and_the_rest_as_it_was() -> None:
    faces = some_faces(1)
    # Of half of the largest area, square, in the upper right corner.
    changed = AugmentationSettings(erased_area=0.5).apply(faces, row(RECTANGLE, 0.5, 0.5, 1.0, 0.0))
    expected = faces.clone()
    expected[..., :8, 8:] = 0
    assert torch.equal(changed, expected)


def test_rectangles_come_in_the_published_ratios() -> None:
    faces = torch.ones(500, 3, 64, 64)
    settings = AugmentationSettings(erased_area=0.2)
    erased = settings.apply(faces, drawn(settings, 500))[:, 0] == 0
    height_B, width_B = erased.any(2).sum(1), erased.any(1).sum(1)
    large = (height_B > 8) & (width_B > 8)
    ratio = (height_B[large] / width_B[large]).double()
    assert ratio.min() > 0.27
    assert ratio.max() < 3.8
    assert 0.9 < ratio.log().mean().exp() < 1.1
    assert erased.double().mean().item() == pytest.approx(0.1, abs=0.01)


def test_the_teacher_is_reached_only_by_what_is_on_and_seen_by_both() -> None:
    on = {"brightness": 0.2}
    assert AugmentationSettings.model_validate({**on, "seen_by": "both"}).reaches_teacher
    assert not AugmentationSettings.model_validate({"seen_by": "both"}).reaches_teacher
    assert not AugmentationSettings.model_validate(on).reaches_teacher
