"""StyleGAN2 as a source of faces: what a face depends on, how it is cut out, and what trains on it."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.faces import EmbeddedFacesSettings
from distill.faces.labelled import draw_labelled
from distill.faces.stylegan2 import StyleGAN2
from distill.faces.stylegan2 import generator as generator_module
from distill.faces.stylegan2.generator import face_box
from distill.faces.stylegan2.network import Architecture, Network
from distill.methods import MethodContext, Shard, SynthDistill, SynthDistillSettings
from distill.students import IResNetSmallSettings
from distill.teachers import EmbeddedTeacherSettings
from tests.distill.faces.stylegan2.by_hand import drawn, mapped, random_tensors

SMALL = {"resolution": 32, "channel_base": 1024, "channel_max": 12, "z_dim": 6, "w_dim": 10}
TEACHER = EmbeddedTeacherSettings().load()


def tensors_of(c_dim: int = 0) -> dict[str, Tensor]:
    tensors = random_tensors(**SMALL, c_dim=c_dim, layers=2)
    for name, tensor in tensors.items():
        if ".torgb." in name and ".affine." not in name:
            tensor.mul_(0.2)  # so that not every pixel is black or white
    return tensors


def generator_of(*, c_dim: int = 0, size_px: int = 24, sha256: str = "0" * 64, **settings) -> StyleGAN2:
    network = Network(Architecture(**SMALL, c_dim=c_dim, num_mapping_layers=2))
    network.load_state_dict(tensors_of(c_dim))
    return StyleGAN2(network, sha256=sha256, size_px=size_px, **settings)


def latents(faces: StyleGAN2, num_faces: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(num_faces, faces.z_dim, generator=rng), torch.rand(num_faces, generator=rng)


def bilinear(size: int, side: int) -> Tensor:
    """Weights (size, side) by which `side` pixels become `size`: each centre between its two neighbours."""
    weights = torch.zeros(size, side, dtype=torch.float64)
    for row in range(size):
        place = min(max((row + 0.5) * side / size - 0.5, 0), side - 1)
        low = min(int(place), side - 2)
        weights[row, low], weights[row, low + 1] = low + 1 - place, place - low
    return weights


# ---- cutting out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resolution", "box"),
    [
        (128, (10, 118, 10, 118)),
        (256, (21, 234, 22, 235)),
        (512, (42, 471, 43, 472)),
        (1024, (84, 942, 86, 944)),
        (32, (1, 30, 1, 29)),
    ],
)
def test_the_box_is_that_of_the_paper(resolution: int, box: tuple[int, int, int, int]) -> None:
    assert face_box(resolution) == box


def test_a_box_that_leaves_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="the face of an image of 16 px lies partly outside of it"):
        face_box(16)


@pytest.mark.parametrize("psi", [1.0, 0.6])
def test_faces_are_the_limited_images_cut_out_and_resized(psi: float) -> None:
    faces = generator_of(psi=psi, noise="const")
    z, noise = latents(faces, 3)
    ws = mapped(tensors_of(), z, psi=psi)[:, None].expand(-1, 8, -1)
    images = drawn(tensors_of(), ws).clamp(-1, 1)
    expected = bilinear(24, 29) @ images[:, :, 1:30, 1:29] @ bilinear(24, 28).T
    assert 0.2 < (images.abs() < 1).double().mean() < 0.95
    given = faces.synthesis(faces.mapping(z), noise_B=noise)
    torch.testing.assert_close(given.double(), expected, rtol=1e-5, atol=1e-5)


def test_antialiasing_averages_what_is_reduced() -> None:
    sharp, smooth = (generator_of(size_px=4, antialias=antialias) for antialias in (False, True))
    w = sharp.mapping(latents(sharp, 64)[0])
    whole = generator_of(size_px=28).synthesis(w)
    averages = F.avg_pool2d(whole, 7)
    errors = [(faces.synthesis(w) - averages).square().mean() for faces in (sharp, smooth)]
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize("noise", ["random", "const", "none"])
@pytest.mark.parametrize("size_px", [16, 33])
def test_faces_are_float_images_in_the_networks_range(noise, size_px: int) -> None:
    faces = generator_of(size_px=size_px, noise=noise, antialias=True)
    z, seeds = latents(faces, 16)
    images = faces.synthesis(faces.mapping(3 * z) * 100, noise_B=seeds)
    assert images.shape == (16, 3, size_px, size_px)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1


# ---- what a face depends on --------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [2**22, 3 * 32**2])
def test_a_face_does_not_depend_on_its_batch(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = generator_of()
    z, noise = latents(faces, 11)
    alone = [faces.synthesis(faces.mapping(z[i : i + 1]), noise_B=noise[i : i + 1]) for i in range(len(z))]
    monkeypatch.setattr(generator_module, "MAX_PIXELS", pixels)
    whole = faces.synthesis(faces.mapping(z), noise_B=noise)
    torch.testing.assert_close(torch.cat(alone), whole, rtol=1e-5, atol=1e-5)
    shuffled = faces.synthesis(faces.mapping(z.flip(0)), noise_B=noise.flip(0))
    torch.testing.assert_close(shuffled.flip(0), whole, rtol=1e-5, atol=1e-5)


def test_no_faces_are_drawn_of_no_latents() -> None:
    faces = generator_of()
    assert faces.synthesis(faces.mapping(torch.zeros(0, 6)), noise_B=torch.zeros(0)).shape == (0, 3, 24, 24)


def test_each_number_gives_noise_of_its_own() -> None:
    faces = generator_of()
    w = faces.mapping(latents(faces, 1)[0]).expand(3, -1)
    images = faces.synthesis(w, noise_B=torch.tensor([0.25, 0.75, 0.25]))
    torch.testing.assert_close(images[0], images[2], rtol=1e-5, atol=1e-5)
    assert (images[0] - images[1]).abs().mean() > 0.01


def test_without_a_number_the_noise_is_the_stored_one() -> None:
    w = generator_of().mapping(latents(generator_of(), 2)[0])
    stored = generator_of(noise="const").synthesis(w, noise_B=torch.tensor([0.1, 0.9]))
    assert torch.equal(generator_of(noise="random").synthesis(w), stored)


def test_without_noise_no_number_matters() -> None:
    faces = generator_of(noise="none")
    w = faces.mapping(latents(faces, 2)[0])
    images = faces.synthesis(w, noise_B=torch.tensor([0.1, 0.9]))
    assert torch.equal(images, faces.synthesis(w))
    assert not torch.allclose(images, generator_of(noise="const").synthesis(w), atol=0.01)


def test_the_digest_tells_apart_whatever_changes_a_face() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"psi": 0.7},
        {"noise": "const"},
        {"noise": "none"},
        {"antialias": True},
        {"size_px": 32},
        {"sha256": "1" * 64},
    ]
    digests = {generator_of(**change).digest for change in changes}
    assert len(digests) == 7
    assert generator_of(psi=1).digest == generator_of(psi=1.0).digest == generator_of().digest


def test_faces_that_are_drawn_in_bfloat16_are_those_of_float32_nearly() -> None:
    faces = generator_of()
    z, noise = latents(faces, 4)
    w = faces.mapping(z)
    whole = faces.synthesis(w, noise_B=noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(faces.mapping(z), w)
        half = faces.synthesis(w, noise_B=noise)
    assert not torch.equal(half, whole)
    assert (half.float() - whole).abs().mean() < 0.02 * whole.abs().mean()


def test_is_frozen() -> None:
    faces = generator_of()
    assert not any(parameter.requires_grad for parameter in faces.parameters())
    assert not faces.synthesis(faces.mapping(latents(faces, 1)[0])).requires_grad


# ---- classes -----------------------------------------------------------------------------------------------


def test_a_class_is_what_the_equations_make_of_it() -> None:
    faces = generator_of(c_dim=5, psi=0.8)
    z, _ = latents(faces, 4)
    expected = mapped(tensors_of(5), z[:, :6], [0, 4, 4, 2], psi=0.8)
    w = faces.mapping(z, classes_B=torch.tensor([0, 4, 4, 2]))
    assert (faces.z_dim, faces.w_dim, faces.num_classes, faces.group_names) == (7, 10, 5, ())
    torch.testing.assert_close(w.double(), expected, rtol=1e-5, atol=1e-5)


def test_without_a_class_z_chooses_one_evenly() -> None:
    faces = generator_of(c_dim=4)
    z = latents(faces, 1000)[0]
    of_class = torch.stack([faces.mapping(z, classes_B=torch.full((1000,), c)) for c in range(4)])
    chosen = (faces.mapping(z) == of_class).all(dim=2)
    assert torch.equal(chosen.sum(dim=0), torch.ones(1000, dtype=torch.int64))
    assert (chosen.sum(dim=1) - 250).abs().max() < 50
    # Chosen by the last entry alone: the rest of z goes on to mean what it means with a class.
    z[:, -1] = 40.0
    assert torch.equal(faces.mapping(z), of_class[3])


def test_a_set_is_drawn_of_classes() -> None:
    faces = generator_of(c_dim=5)
    classes = torch.tensor([3, 1])
    drawn_set = draw_labelled(
        faces, classes_C=classes, group_C=torch.zeros(2).long(), images_per_class=4, authentic=False
    )
    assert isinstance(drawn_set.images, Tensor)
    assert drawn_set.images.shape == (8, 3, 24, 24)
    assert len({tuple(image.flatten().tolist()) for image in drawn_set.images}) == 8


@pytest.mark.parametrize("index", [-1, 5])
def test_an_unknown_class_is_refused(index: int) -> None:
    faces = generator_of(c_dim=5)
    low, high = min(index, 3), max(index, 3)
    with pytest.raises(ValueError, match=rf"classes_B must lie in \[0, 5\), got {low} to {high}"):
        faces.mapping(latents(faces, 2)[0], classes_B=torch.tensor([3, index]))


def test_classes_of_an_unconditional_network_are_refused() -> None:
    faces = generator_of()
    with pytest.raises(ValueError, match="classes_B must not be given: this StyleGAN2 is unconditional"):
        faces.mapping(latents(faces, 1)[0], classes_B=torch.zeros(1).long())


@pytest.mark.parametrize("classes", [None, torch.zeros(1).long()])
def test_groups_are_refused(classes: Tensor | None) -> None:
    faces = generator_of(c_dim=5)
    with pytest.raises(ValueError, match="groups_B must not be given: StyleGAN2 knows no groups"):
        faces.mapping(latents(faces, 1)[0], classes_B=classes, groups_B=torch.zeros(1).long())


# ---- SynthDistill ------------------------------------------------------------------------------------------


def method_of(faces: StyleGAN2, shard: Shard, **settings) -> SynthDistill:
    context = MethodContext(
        faces=EmbeddedFacesSettings(size_px=32),
        generator=faces,
        teacher=TEACHER,
        batch_size=8,
        seed=3,
        shard=shard,
        device=torch.device("cpu"),
    )
    return SynthDistillSettings(**settings).build(context)


@pytest.mark.parametrize("c_dim", [0, 5])
@pytest.mark.parametrize("resampling", ["adaptive_w", "adaptive_z"])
def test_synthdistill_trains_a_student_on_it(c_dim: int, resampling: str) -> None:
    torch.manual_seed(0)
    method = method_of(generator_of(c_dim=c_dim, size_px=32), Shard(), resampling=resampling)
    student = IResNetSmallSettings().build(embedding_dim=TEACHER.embedding_dim, size_px=32)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    seen, losses = [], []
    for _ in range(4):
        with torch.no_grad():
            images = method.next_batch().images
            teacher_BD = TEACHER(images)
        student_BD = student(images)
        loss = F.mse_loss(student_BD, teacher_BD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.observe(student_BD=student_BD.detach(), teacher_BD=teacher_BD)
        seen.append(images)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all((first - second).abs().mean() > 0.01 for first, second in itertools.combinations(seen, 2))


def test_two_workers_see_the_faces_of_one() -> None:
    def exploring_and_varying(shard: Shard) -> list[Tensor]:
        method, seen = method_of(generator_of(size_px=32), shard), []
        for _ in range(2):
            seen.append(method.next_batch().images)
            flat = seen[-1].flatten(1)
            method.observe(student_BD=flat[:, :64], teacher_BD=flat[:, 64:128])
        return seen

    shares = [exploring_and_varying(Shard(rank=rank, world_size=2)) for rank in (0, 1)]
    for whole, first, second in zip(exploring_and_varying(Shard()), *shares, strict=True):
        torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-4, atol=1e-4)
