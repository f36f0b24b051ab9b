"""Labelled sets: who is on them, where they come from, and that they never change."""

import pytest
import torch

from distill.faces import EmbeddedFacesSettings
from distill.faces.embedded import EmbeddedFaces
from distill.faces.labelled import draw_labelled, joined

FACES = EmbeddedFacesSettings(size_px=16)


def test_every_class_has_as_many_images_and_they_lie_together() -> None:
    drawn = FACES.labelled(num_classes=5, images_per_class=3)
    images, index_N = drawn.read(torch.arange(len(drawn)))
    assert images.shape == (15, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert torch.equal(index_N, torch.arange(15))
    assert drawn.label_N.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert drawn.first_images.tolist() == [0, 3, 6, 9, 12]
    assert (len(drawn), drawn.num_classes) == (15, 5)


def test_the_same_settings_draw_the_same_set() -> None:
    first, second = (FACES.labelled(num_classes=4, images_per_class=2) for _ in range(2))
    assert first.digest == second.digest
    assert first.digest != FACES.labelled(num_classes=4, images_per_class=3).digest


def test_classes_share_the_latents_of_a_thousand_seeds_and_take_distinct_ones() -> None:
    seen: list[torch.Tensor] = []

    class Watched(EmbeddedFaces):
        def mapping(self, z_BZ, *, classes_B=None, groups_B=None):  # type: ignore[no-untyped-def]
            seen.append(z_BZ)
            return super().mapping(z_BZ, classes_B=classes_B, groups_B=groups_B)

    generator = Watched(domain="synthetic", size_px=16)
    classes = torch.arange(40)
    draw_labelled(
        generator,
        classes_C=classes,
        group_C=generator.group_of_classes(classes),
        images_per_class=30,
        authentic=False,
    )
    z_NZ = torch.cat(seen)
    pool = torch.stack(
        [torch.randn(generator.z_dim, generator=torch.Generator().manual_seed(s)) for s in range(1, 1001)]
    )
    nearest = torch.cdist(z_NZ, pool, compute_mode="donot_use_mm_for_euclid_dist")
    assert (nearest.min(1).values < 1e-3).all()
    for chosen in nearest.argmin(1).view(40, 30):
        assert len(chosen.unique()) == 30
    assert len(nearest.argmin(1).unique()) < 40 * 30


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_a_mix_holds_the_share_in_every_group(share: float) -> None:
    mixed = FACES.mixed(num_classes=200, authentic_share=share, images_per_class=2, synthetic_per_class=1)
    first = mixed.first_images
    authentic, group = mixed.authentic_N[first], mixed.group_N[first]
    assert mixed.num_classes == 200
    for index in range(len(mixed.group_names)):
        of_group = authentic[group == index]
        assert int(of_group.sum()) == round(share * len(of_group))


def test_a_mix_takes_each_kind_its_own_number_of_images() -> None:
    mixed = FACES.mixed(num_classes=20, authentic_share=0.5, images_per_class=4, synthetic_per_class=2)
    sizes = torch.bincount(mixed.label_N)
    assert (sizes[mixed.authentic_N[mixed.first_images]] == 4).all()
    assert (sizes[~mixed.authentic_N[mixed.first_images]] == 2).all()


def test_no_identity_of_a_mix_is_of_both_kinds() -> None:
    whole = FACES.mixed(num_classes=12, authentic_share=1.0, images_per_class=1, synthetic_per_class=1)
    half = FACES.mixed(num_classes=12, authentic_share=0.5, images_per_class=1, synthetic_per_class=1)
    authentic = half.read(half.authentic_N.nonzero().squeeze(1))[0]
    # The authentic half is drawn as the same people; the synthetic half is the rest of them.
    assert 0 < len(authentic) < 12
    assert half.num_classes == whole.num_classes == 12


def test_sharp_faces_are_kept_where_the_student_sees_reduced_ones() -> None:
    faces = EmbeddedFacesSettings(size_px=16, captured_px=32)
    assert faces.labelled(num_classes=2, images_per_class=1).read(torch.arange(2))[0].shape[-1] == 32
    assert faces.validation_pairs().images_NCHW.shape[-1] == 16


def test_refuses_more_images_than_there_are_latents() -> None:
    with pytest.raises(ValueError, match=r"images_per_class must lie in \[1, 1000\], got 1001"):
        FACES.labelled(num_classes=1, images_per_class=1001)


def test_refuses_to_join_sets_of_other_sizes() -> None:
    small = FACES.labelled(num_classes=1, images_per_class=1)
    large = EmbeddedFacesSettings(size_px=32).labelled(num_classes=1, images_per_class=1)
    with pytest.raises(ValueError, match="groups and sizes agree"):
        joined([small, large])
