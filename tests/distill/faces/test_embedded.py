"""Claims of the embedded world: what a face depends on, and what it never depends on."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.faces.embedded import (
    BENCHMARK_IDENTITIES,
    DOMAINS,
    EDITION,
    TRAINING_IDENTITIES,
    VALIDATION_IDENTITIES,
    EmbeddedFaces,
    EmbeddedFacesSettings,
)
from distill.faces.factors import FACTORS, GROUPS, NUM_IDENTITY_FACTORS, POSITIONS

domains = pytest.mark.parametrize("domain", DOMAINS)


def latents(faces: EmbeddedFaces, num_faces: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(num_faces, faces.z_dim, generator=rng), torch.rand(num_faces, generator=rng)


@domains
@pytest.mark.parametrize("size_px", [16, 33, 112])
def test_faces_are_float_images_in_the_networks_range(domain: str, size_px: int) -> None:
    faces = EmbeddedFaces(domain=domain, size_px=size_px)
    z, noise = latents(faces, 5)
    images = faces.synthesis(faces.mapping(z), noise_B=noise)
    assert images.shape == (5, 3, size_px, size_px)
    assert images.dtype == torch.float32
    assert images.min() >= -1
    assert images.max() <= 1


@domains
@pytest.mark.parametrize("size_px", [16, 33])
def test_a_face_does_not_depend_on_its_batch(domain: str, size_px: int) -> None:
    faces = EmbeddedFaces(domain=domain, size_px=size_px)
    z, noise = latents(faces, 37)
    whole = faces.synthesis(faces.mapping(z), noise_B=noise)
    for part in (1, 7):
        shares = [
            faces.synthesis(faces.mapping(z_share), noise_B=noise_share)
            for z_share, noise_share in zip(z.split(part), noise.split(part), strict=True)
        ]
        torch.testing.assert_close(torch.cat(shares), whole, rtol=0, atol=0)


def test_the_same_arguments_give_the_same_faces_from_another_generator() -> None:
    first, second = (EmbeddedFaces(domain="synthetic", size_px=32) for _ in range(2))
    z, noise = latents(first, 8)
    torch.testing.assert_close(
        first.synthesis(first.mapping(z), noise_B=noise),
        second.synthesis(second.mapping(z), noise_B=noise),
        rtol=0,
        atol=0,
    )


@domains
def test_a_face_looks_the_same_at_16_and_at_112_px(domain: str) -> None:
    small, large = (EmbeddedFaces(domain=domain, size_px=size_px) for size_px in (16, 112))
    w = small.mapping(latents(small, 24)[0])
    w[:, POSITIONS["noise"]] = -9
    reduced = F.interpolate(large.synthesis(w), size=(16, 16), mode="area").flatten(1)
    similarity = F.cosine_similarity(
        reduced - reduced.mean(1, keepdim=True),
        (drawn := small.synthesis(w).flatten(1)) - drawn.mean(1, keepdim=True),
    )
    assert similarity.min() > 0.97


@domains
def test_no_latent_is_too_far_out_to_be_rendered(domain: str) -> None:
    faces = EmbeddedFaces(domain=domain, size_px=24)
    for scale in (3.0, 1e3, 1e30):
        images = faces.synthesis(scale * latents(faces, 16)[0][:, : faces.w_dim])
        assert images.isfinite().all()
        assert images.abs().max() <= 1


def test_every_factor_shows_in_the_picture() -> None:
    faces = EmbeddedFaces(domain="authentic", size_px=64)
    # Someone with every trait that may be missing.
    average = torch.zeros(1, faces.w_dim)
    for name in ("freckles", "mole", "wrinkles", "mouth_open", "hair_curl", "hair_red", "blur", "obstacle"):
        average[0, POSITIONS[name]] = 1.3
    plain = faces.synthesis(average)
    for position, factor in enumerate(FACTORS):
        moved = average.repeat(2, 1)
        moved[:, position] += torch.tensor([-3.0, 3.0])
        assert (faces.synthesis(moved) != plain).any(), factor.name


def test_noise_is_a_function_of_its_seed() -> None:
    faces = EmbeddedFaces(domain="authentic", size_px=16)
    w = faces.mapping(latents(faces, 1)[0]).expand(3, -1)
    images = faces.synthesis(w, noise_B=torch.tensor([0.25, 0.75, 0.25]))
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])


def test_without_noise_a_face_is_a_function_of_w_alone() -> None:
    faces = EmbeddedFaces(domain="authentic", size_px=16)
    w = faces.mapping(latents(faces, 1)[0]).expand(2, -1)
    first, second = faces.synthesis(w)
    assert torch.equal(first, second)


def test_w_has_about_unit_variance_on_photographs() -> None:
    faces = EmbeddedFaces(domain="authentic", size_px=16)
    w = faces.mapping(latents(faces, 4000)[0])
    nuisance = w[:, NUM_IDENTITY_FACTORS:]
    assert nuisance.std().item() == pytest.approx(1.0, abs=0.05)
    assert 0.6 < w[:, :NUM_IDENTITY_FACTORS].std().item() < 1.1


def test_the_synthetic_domain_has_less_nuisance() -> None:
    authentic, synthetic = (EmbeddedFaces(domain=domain, size_px=16) for domain in ("authentic", "synthetic"))
    z = latents(authentic, 1000)[0]
    spread = [faces.mapping(z)[:, POSITIONS["yaw"]].std().item() for faces in (synthetic, authentic)]
    assert DOMAINS["synthetic"].nuisance_spread < 0.8
    assert spread[0] == pytest.approx(DOMAINS["synthetic"].nuisance_spread * spread[1], rel=1e-3)


def test_steps_in_z_and_in_w_are_different_steps() -> None:
    faces = EmbeddedFaces(domain="authentic", size_px=16)
    z = latents(faces, 200)[0]
    middle = (faces.mapping(z[:100]) + faces.mapping(z[100:])) / 2
    assert (faces.mapping((z[:100] + z[100:]) / 2) - middle).abs().mean() > 0.05


def test_a_class_is_one_person_in_all_photographs() -> None:
    faces = EmbeddedFaces(domain="authentic", size_px=16)
    z = latents(faces, 6)[0]
    classes = torch.tensor([5, 5, 5, 6, 6, 6])
    w = faces.mapping(z, classes_B=classes)
    identity, nuisance = w[:, :NUM_IDENTITY_FACTORS], w[:, NUM_IDENTITY_FACTORS:]
    assert torch.equal(identity[0], identity[2])
    assert not torch.equal(identity[0], identity[3])
    assert not torch.equal(nuisance[0], nuisance[1])


def test_a_persons_group_is_the_same_in_every_domain() -> None:
    classes = torch.arange(1000)
    groups = [EmbeddedFaces(domain=domain, size_px=16).group_of_classes(classes) for domain in DOMAINS]
    assert torch.equal(groups[0], groups[1])


def test_people_are_all_different() -> None:
    faces = EmbeddedFaces(domain="authentic", size_px=16)
    z = torch.zeros(2000, faces.z_dim)
    identity = faces.mapping(z, classes_B=torch.arange(2000))[:, :NUM_IDENTITY_FACTORS]
    distance = torch.cdist(identity, identity).fill_diagonal_(99)
    assert distance.min() > 1


@domains
def test_group_shares_are_unequal_as_declared(domain: str) -> None:
    faces = EmbeddedFaces(domain=domain, size_px=16)
    z = latents(faces, 8000)[0]
    # One face does not tell its group; the mean over many tells the mixture.
    means = torch.stack(
        [faces.mapping(z, groups_B=torch.full((8000,), g)).mean(0) for g in range(len(GROUPS))]
    )
    share = torch.tensor(DOMAINS[domain].group_shares)
    torch.testing.assert_close(faces.mapping(z).mean(0), share @ means, rtol=0, atol=0.05)


def test_a_given_group_shifts_the_factors_it_declares() -> None:
    faces = EmbeddedFaces(domain="authentic", size_px=16)
    z = latents(faces, 2000)[0]
    for index, group in enumerate(GROUPS):
        w = faces.mapping(z, groups_B=torch.full((2000,), index))
        for name, shift in group.shift.items():
            assert w[:, POSITIONS[name]].mean().item() == pytest.approx(shift, abs=0.1)


def test_an_unknown_class_is_refused() -> None:
    faces = EmbeddedFaces(domain="authentic", size_px=16)
    with pytest.raises(ValueError, match=r"classes_B must lie in \[0, 1000000\), got 3 to 1000000"):
        faces.mapping(latents(faces, 2)[0], classes_B=torch.tensor([3, 1_000_000]))


def test_an_unknown_group_is_refused() -> None:
    faces = EmbeddedFaces(domain="authentic", size_px=16)
    with pytest.raises(ValueError, match=r"groups_B must lie in \[0, 4\), got -1 to 0"):
        faces.mapping(latents(faces, 2)[0], groups_B=torch.tensor([-1, 0]))


def test_a_class_and_a_group_at_once_are_refused() -> None:
    faces = EmbeddedFaces(domain="authentic", size_px=16)
    zeros = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="must not both be given"):
        faces.mapping(latents(faces, 2)[0], classes_B=zeros, groups_B=zeros)


def test_identities_for_training_validation_and_benchmark_are_disjoint() -> None:
    lots = (TRAINING_IDENTITIES, VALIDATION_IDENTITIES, BENCHMARK_IDENTITIES)
    assert all(left.stop <= right.start for left, right in itertools.pairwise(lots))
    assert EmbeddedFacesSettings().generator().num_classes == len(TRAINING_IDENTITIES)


def test_the_digest_tells_domains_and_sizes_apart() -> None:
    digests = {EmbeddedFaces(domain=domain, size_px=size).digest for domain in DOMAINS for size in (16, 32)}
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("domain", "looks"),
    [("authentic", (0.000644, -0.284286, 0.316943)), ("synthetic", (0.043565, -0.323516, 0.319248))],
)
def test_a_change_of_the_faces_asks_for_a_new_edition(domain: str, looks: tuple[float, float, float]) -> None:
    faces = EmbeddedFaces(domain=domain, size_px=16)
    z, noise = latents(faces, 32)
    classes = torch.arange(32)
    images = faces.synthesis(faces.mapping(z, classes_B=classes), noise_B=noise)
    red, _, blue = images.mean((0, 2, 3)).tolist()
    assert EDITION == 1
    assert (red, blue, images.std().item()) == pytest.approx(looks, abs=1e-5)
