"""SynthDistill's sampling: the oracles of its equations, and its bookkeeping over steps and workers."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.faces import EmbeddedFacesSettings, FaceGenerator
from distill.methods import Batch, MethodContext, Shard, SynthDistill, SynthDistillSettings, resampling_radius
from distill.methods.synthdistill import Resampling
from distill.teachers import EmbeddedTeacherSettings

BATCH = 8
CPU = torch.device("cpu")
MODES = get_args(Resampling)
TEACHER = EmbeddedTeacherSettings().load()


@pytest.fixture(scope="module")
def generator() -> FaceGenerator:
    return EmbeddedFacesSettings(size_px=16).generator()


def method_of(
    generator: FaceGenerator, *, shard: Shard | None = None, seed: int = 3, **settings
) -> SynthDistill:
    context = MethodContext(
        faces=EmbeddedFacesSettings(size_px=16),
        generator=generator,
        teacher=TEACHER,
        batch_size=BATCH,
        seed=seed,
        shard=shard or Shard(),
        device=CPU,
    )
    return SynthDistillSettings(**settings).build(context)


def embeddings(images: Tensor) -> tuple[Tensor, Tensor]:
    """Stand-ins for student and teacher: two fixed projections of the images."""
    flat = images.flatten(1)
    first, second = torch.randn(2, flat.shape[1], 6, generator=torch.Generator().manual_seed(0))
    return flat @ first, flat @ (first + second)


def steps(method: SynthDistill, count: int) -> list[Batch]:
    batches = []
    for _ in range(count):
        batch = method.next_batch()
        student_BD, teacher_BD = embeddings(batch.images)
        method.observe(student_BD=student_BD, teacher_BD=teacher_BD)
        batches.append(batch)
    return batches


def test_a_face_that_student_and_teacher_agree_on_moves_by_the_whole_coefficient() -> None:
    radius = resampling_radius(torch.tensor([1.0, 0.0, -1.0]), resampling="adaptive_w", resampling_coef=0.6)
    torch.testing.assert_close(radius, torch.tensor([0.6, 0.3, 0.0]))


def test_the_inverted_control_moves_what_they_disagree_on() -> None:
    radius = resampling_radius(torch.tensor([1.0, 0.0, -1.0]), resampling="inverted_w", resampling_coef=0.6)
    torch.testing.assert_close(radius, torch.tensor([0.0, 0.3, 0.6]))


def test_the_constant_radius_ignores_the_similarity() -> None:
    radius = resampling_radius(torch.tensor([1.0, -1.0]), resampling="constant_w", resampling_coef=0.6)
    torch.testing.assert_close(radius, torch.tensor([0.6, 0.6]))


class RecordingGenerator(FaceGenerator):
    """The identity on a wide latent, so that the w that is rendered can be read off the image."""

    z_dim = w_dim = 3 * 64 * 64
    size_px, num_classes, group_names, digest = 64, 0, (), "recording"

    def mapping(
        self, z_BZ: Tensor, *, classes_B: Tensor | None = None, groups_B: Tensor | None = None
    ) -> Tensor:
        return z_BZ

    def synthesis(self, w_BW: Tensor, *, noise_B: Tensor | None = None) -> Tensor:
        return w_BW.reshape(-1, 3, 64, 64)


@pytest.mark.parametrize("coef", [0.5, 2.0])
def test_the_step_in_w_is_gaussian_with_the_radius_of_the_paper(coef: float) -> None:
    method = method_of(RecordingGenerator(), resampling_coef=coef)
    explored = method.next_batch().images.flatten(1)
    student_BD, teacher_BD = torch.randn(2, BATCH, 5, generator=torch.Generator().manual_seed(1))
    method.observe(student_BD=student_BD, teacher_BD=teacher_BD)
    varied = method.next_batch().images.flatten(1)
    expected = coef * (F.cosine_similarity(student_BD, teacher_BD) + 1) / 2
    torch.testing.assert_close((varied - explored).std(dim=1), expected, rtol=0.05, atol=0.0)


def test_off_draws_fresh_latents_for_both_halves() -> None:
    method = method_of(RecordingGenerator(), resampling="off")
    first, second = (batch.images.flatten(1) for batch in steps(method, 2))
    similarity = F.cosine_similarity(first, second)
    assert similarity.abs().max() < 0.1


def test_adaptive_z_steps_before_the_mapping(generator: FaceGenerator) -> None:
    in_z = steps(method_of(generator, resampling="adaptive_z"), 2)[1].images
    in_w = steps(method_of(generator, resampling="adaptive_w"), 2)[1].images
    assert not torch.equal(in_z, in_w)


@pytest.mark.parametrize("mode", MODES)
def test_modes_that_share_a_seed_explore_the_same_faces(generator: FaceGenerator, mode: Resampling) -> None:
    explored = steps(method_of(generator, resampling=mode), 1)[0].images
    assert torch.equal(explored, steps(method_of(generator), 1)[0].images)


@pytest.mark.parametrize("mode", MODES)
def test_two_workers_see_the_faces_of_one(generator: FaceGenerator, mode: Resampling) -> None:
    alone = steps(method_of(generator, resampling=mode), 4)
    shared = [
        steps(method_of(generator, resampling=mode, shard=Shard(rank=rank, world_size=2)), 4)
        for rank in (0, 1)
    ]
    for whole, first, second in zip(alone, *shared, strict=True):
        torch.testing.assert_close(
            torch.cat([first.images, second.images]), whole.images, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stop_after", [2, 3])
def test_continues_exactly_where_it_stopped(
    generator: FaceGenerator, mode: Resampling, stop_after: int
) -> None:
    uninterrupted = steps(method_of(generator, resampling=mode), stop_after + 2)[stop_after:]
    first = method_of(generator, resampling=mode)
    steps(first, stop_after)
    second = method_of(generator, resampling=mode, seed=99)
    second.load_state_dict(first.state_dict())
    for expected, batch in zip(uninterrupted, steps(second, 2), strict=True):
        assert torch.equal(batch.images, expected.images)


def test_the_batch_must_share_out_evenly(generator: FaceGenerator) -> None:
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of the 3 workers, got 8"):
        method_of(generator, shard=Shard(rank=0, world_size=3))


def test_both_distributions_are_observed_by_their_mean_and_quantiles() -> None:
    method = method_of(RecordingGenerator(), resampling_coef=0.5)
    student_BD, teacher_BD = embeddings(method.next_batch().images)
    explored = method.observe(student_BD=student_BD, teacher_BD=teacher_BD)
    cosines = sorted(F.cosine_similarity(student_BD, teacher_BD).tolist())
    # Linear between the sorted values of 8 faces, whose places are 0 to 7 sevenths.
    expected = {"p10": 0.7, "p50": 3.5, "p90": 6.3}
    for end, place in expected.items():
        below, share = int(place), place % 1
        cosine = (1 - share) * cosines[below] + share * cosines[below + 1]
        assert explored[f"similarity_{end}"].item() == pytest.approx(cosine, abs=1e-5)
        assert explored[f"resampling_radius_{end}"].item() == pytest.approx(0.5 * (cosine + 1) / 2, abs=1e-5)
    method.next_batch()
    varied = method.observe(student_BD=student_BD, teacher_BD=teacher_BD)
    assert not any(name.startswith("resampling_radius") for name in varied)


def test_without_resampling_only_the_similarity_is_observed() -> None:
    method = method_of(RecordingGenerator(), resampling="off")
    student_BD, teacher_BD = embeddings(method.next_batch().images)
    names = set(method.observe(student_BD=student_BD, teacher_BD=teacher_BD))
    assert names == {"similarity", "similarity_p10", "similarity_p50", "similarity_p90"}
