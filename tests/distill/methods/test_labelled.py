"""Methods on labelled sets: what a batch holds, what the teacher says of it, and that both are repeatable."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter

from distill.faces import EmbeddedFacesSettings
from distill.methods import AnyMethodSettings, Batch, LabelledDistillation, MethodContext, Shard
from distill.methods.fair_kd import FairKDSettings
from distill.methods.labelled import LabelledSettings, class_centres
from distill.teachers import EmbeddedTeacherSettings

TEACHER = EmbeddedTeacherSettings().load()
METHODS = ("sface", "fair_kd", "bridge")


def make(
    name: str = "sface", *, shard: Shard | None = None, faces: Any = None, **settings: Any
) -> LabelledDistillation:
    faces = faces or EmbeddedFacesSettings(size_px=16)
    chosen = {"num_classes": 12, "images_per_class": 4, **settings}
    method = TypeAdapter(AnyMethodSettings).validate_python({"name": name, **chosen})
    assert isinstance(method, LabelledSettings)
    context = MethodContext(
        faces=faces,
        generator=faces.generator(),
        teacher=TEACHER,
        batch_size=8,
        seed=3,
        shard=shard or Shard(),
        device=torch.device("cpu"),
    )
    return method.build(context)


def batches(method: LabelledDistillation, count: int) -> list[Batch]:
    return [method.next_batch() for _ in range(count)]


def labels(batch: Batch) -> list[int]:
    assert batch.labels_B is not None
    return batch.labels_B.tolist()


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_deals_the_same_batches(name: str) -> None:
    for first, second in zip(batches(make(name), 7), batches(make(name), 7), strict=True):
        assert torch.equal(first.images, second.images)
        assert labels(first) == labels(second)


def test_every_image_comes_once_a_pass_in_another_order_each_time() -> None:
    method = make()
    passes = [[batch.images for batch in batches(method, 6)] for _ in range(2)]
    # A face and its mirror image have the same sum.
    sums = [torch.cat(images).sum(dim=(1, 2, 3)) for images in passes]
    assert len(sums[0].round(decimals=3).unique()) == 48
    torch.testing.assert_close(sums[0].sort().values, sums[1].sort().values)
    assert not torch.equal(sums[0], sums[1])


def test_batches_hold_as_many_faces_of_each_class_as_asked() -> None:
    for batch in batches(make(faces_per_class=4), 5):
        counts = torch.bincount(torch.tensor(labels(batch)))
        assert set(counts.tolist()) <= {0, 4}
        assert len(batch.images.flatten(1).unique(dim=0)) == 8


def test_the_teacher_saw_what_the_student_sees() -> None:
    for batch in batches(make(), 3):
        torch.testing.assert_close(batch.teacher_BD, TEACHER(batch.images), rtol=1e-4, atol=1e-4)


def test_half_of_the_faces_are_mirrored_whatever_their_source() -> None:
    method = make("fair_kd", authentic_share=0.5, num_classes=40)
    images = {
        tuple(image.flatten().tolist())
        for image in method._faces.read(torch.arange(len(method._faces)))[0].float() / 127.5 - 1
    }
    mirrored = [
        tuple(image.flatten().tolist()) not in images
        for batch in batches(method, 20)
        for image in batch.images
    ]
    assert 0.3 < sum(mirrored) / len(mirrored) < 0.7


def test_workers_share_the_batch_of_one() -> None:
    whole = batches(make(), 4)
    halves = [batches(make(shard=Shard(rank=rank, world_size=2)), 4) for rank in range(2)]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(batch.images, torch.cat([part.images for part in parts]))
        assert labels(batch) == [label for part in parts for label in labels(part)]


@pytest.mark.parametrize("name", METHODS)
def test_continues_exactly_where_it_stopped(name: str) -> None:
    method = make(name)
    batches(method, 4)
    continued = make(name)
    continued.load_state_dict(method.state_dict())
    assert torch.equal(method.next_batch().images, continued.next_batch().images)


def test_the_student_of_a_paired_view_sees_less_and_the_teacher_all() -> None:
    faces = EmbeddedFacesSettings(size_px=16, captured_px=32)
    batch = make("bridge", faces=faces).next_batch()
    assert batch.images.shape == (8, 3, 16, 16)
    assert batch.teacher_images is not None
    assert batch.teacher_images.shape == (8, 3, 32, 32)


def test_mixed_resolutions_come_at_the_students_size() -> None:
    faces = EmbeddedFacesSettings(size_px=32)
    images = torch.cat([b.images for b in batches(make("bridge", faces=faces, resolution="mixed"), 6)])
    assert images.shape[-1] == 32
    # A face that was reduced has less between neighbouring pixels.
    detail = images.diff(dim=-1).abs().mean(dim=(1, 2, 3))
    assert detail.max() > 1.3 * detail.min()


def test_an_adapter_stands_between_teacher_and_student() -> None:
    method = make("bridge", adapter={"name": "linear", "width": 64, "epochs": 2})
    batch = method.next_batch()
    assert batch.teacher_BD is not None
    assert batch.teacher_BD.shape == (8, 64)
    assert method.target.embedding_dim == 64
    assert batch.teacher_images is not None
    torch.testing.assert_close(batch.teacher_BD, method.target(batch.teacher_images), rtol=1e-4, atol=1e-4)


def test_centres_are_the_mean_directions_of_both_views() -> None:
    rng = torch.Generator().manual_seed(0)
    embedding_2ND = torch.randn(2, 3, 4, generator=rng)
    centres = class_centres(embedding_2ND, torch.tensor([0, 0, 1]))
    views = [[embedding_2ND[0, 0], embedding_2ND[1, 0], embedding_2ND[0, 1], embedding_2ND[1, 1]]]
    views.append([embedding_2ND[0, 2], embedding_2ND[1, 2]])
    for centre, members in zip(centres, views, strict=True):
        mean = sum(member / member.norm() for member in members) / len(members)
        torch.testing.assert_close(centre, F.normalize(torch.as_tensor(mean), dim=0))


@pytest.mark.parametrize(
    ("mix_by", "share", "expected"), [("identities", 0.7, 0.7), ("images", 0.5, 0.25), ("images", 1.0, 1.0)]
)
def test_a_mix_is_counted_in_identities_or_in_images(mix_by: str, share: float, expected: float) -> None:
    settings = FairKDSettings.model_validate(
        {
            "authentic_share": share,
            "mix_by": mix_by,
            "images_per_class": 12,
            "synthetic_images_per_class": 4,
        }
    )
    assert settings.share_of_identities() == pytest.approx(expected)


def test_half_of_the_images_are_authentic_where_images_are_counted() -> None:
    settings = FairKDSettings.model_validate(
        {
            "num_classes": 200,
            "authentic_share": 0.5,
            "mix_by": "images",
            "images_per_class": 6,
            "synthetic_images_per_class": 2,
        }
    )
    drawn = settings.draw(EmbeddedFacesSettings(size_px=16))
    assert drawn.authentic_N.double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_agreement_is_told_only_between_embeddings_of_one_width() -> None:
    method = make()
    same = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert method.observe(student_BD=same, teacher_BD=same)["similarity"].item() == pytest.approx(1.0)
    assert method.observe(student_BD=same[:, :4], teacher_BD=same) == {}
