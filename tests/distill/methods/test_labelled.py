"""Methods on labelled sets: what a batch holds, what the teacher says of it, and that both are repeatable."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor

from distill import embedding_cache
from distill.errors import InputError
from distill.faces import AnyFacesSettings, EmbeddedFacesSettings, LabelledFaces
from distill.faces.store import ImageStore
from distill.losses.class_centres import mean_directions
from distill.methods import AnyMethodSettings, Batch, LabelledDistillation, MethodContext, Shard, labelled
from distill.methods.fair_kd import FairKDSettings
from distill.methods.labelled import LabelledSettings, class_centres
from distill.methods.sface import SFaceSettings
from distill.teachers import EmbeddedTeacherSettings

TEACHER = EmbeddedTeacherSettings().load()
METHODS = ("sface", "fair_kd", "bridge")


def make(
    name: str = "sface",
    *,
    shard: Shard | None = None,
    faces: Any = None,
    cache: Path | None = None,
    **settings: Any,
) -> LabelledDistillation:
    chosen = {"num_classes": 12, "images_per_class": 4, **settings}
    method = TypeAdapter(AnyMethodSettings).validate_python({"name": name, **chosen})
    assert isinstance(method, LabelledSettings)
    return build(method, faces=faces or EmbeddedFacesSettings(size_px=16), shard=shard, cache=cache)


def build(
    method: LabelledSettings,
    *,
    faces: EmbeddedFacesSettings,
    shard: Shard | None = None,
    cache: Path | None = None,
) -> LabelledDistillation:
    context = MethodContext(
        faces=faces,
        generator=faces.generator(),
        teacher=TEACHER,
        batch_size=8,
        seed=3,
        shard=shard or Shard(),
        device=torch.device("cpu"),
        cache=cache,
    )
    return method.build(context)


@pytest.fixture
def as_if_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what other tests drew, embedded and opened."""
    monkeypatch.setattr(labelled, "_warm", type(labelled._warm)())
    monkeypatch.setattr(embedding_cache, "_opened", {})


@pytest.fixture
def asked(as_if_anew: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many faces the teacher was asked about, call by call."""
    calls: list[int] = []

    def count(images: Tensor) -> Tensor:
        calls.append(len(images))
        return type(TEACHER).forward(TEACHER, images)

    monkeypatch.setattr(TEACHER, "forward", count)
    return calls


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


@pytest.mark.usefixtures("as_if_anew")
@pytest.mark.parametrize("name", METHODS)
def test_batches_from_a_file_are_those_from_memory_to_the_last_bit(name: str, tmp_path: Path) -> None:
    adapter: dict[str, Any] = {"adapter": {"name": "linear", "width": 64, "epochs": 2}}
    adapter = adapter if name == "bridge" else {}
    kept = make(name, **adapter)
    known = (kept.teacher_centres, batches(kept, 3))
    labelled._warm.clear()
    mapped = make(name, cache=tmp_path, **adapter)
    assert torch.equal(mapped.teacher_centres, known[0])
    for expected, batch in zip(known[1], batches(mapped, 3), strict=True):
        assert batch.teacher_BD is not None
        assert expected.teacher_BD is not None
        assert torch.equal(batch.teacher_BD, expected.teacher_BD)
    assert len(list(tmp_path.glob("*/card.json"))) == 1


def test_the_teacher_is_asked_once_for_all_trials(asked: list[int], tmp_path: Path) -> None:
    batches(make(cache=tmp_path), 3)
    assert sum(asked) == 2 * 48
    asked.clear()
    for _ in range(2):
        labelled._warm.clear()
        embedding_cache._opened.clear()
        batches(make(cache=tmp_path, strategy="transfer", faces_per_class=2), 3)
    assert asked == []


@pytest.mark.parametrize("cached", [True, False])
def test_half_precision_reaches_the_loss_as_floats_of_three_digits(cached: bool, tmp_path: Path) -> None:
    cache = tmp_path if cached else None
    for whole, half in zip(
        batches(make(), 3), batches(make(cache=cache, cache_dtype="float16"), 3), strict=True
    ):
        assert half.teacher_BD is not None
        assert half.teacher_BD.dtype == torch.float32
        torch.testing.assert_close(half.teacher_BD, whole.teacher_BD, rtol=2**-11, atol=2**-24)


AUGMENTATION = {"least_area": 0.5, "brightness": 0.3, "erased_area": 0.2}


def test_a_teacher_that_sees_clean_faces_says_of_augmented_ones_what_it_said_before(
    asked: list[int], tmp_path: Path
) -> None:
    clean = batches(make(cache=tmp_path), 3)
    asked.clear()
    for expected, batch in zip(
        clean, batches(make(cache=tmp_path, augmentation=AUGMENTATION), 3), strict=True
    ):
        assert not torch.equal(batch.images, expected.images)
        assert batch.teacher_images is not None
        assert torch.equal(batch.teacher_images, expected.images)
        assert expected.teacher_BD is not None
        assert batch.teacher_BD is not None
        assert torch.equal(batch.teacher_BD, expected.teacher_BD)
    assert asked == []


def test_a_teacher_that_sees_what_the_student_sees_has_no_cache_and_says_so(
    asked: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        method = make(cache=tmp_path, augmentation={**AUGMENTATION, "seen_by": "both"})
    batch = method.next_batch()
    assert "the teacher's embedding cache is off where method.augmentation.seen_by is both" in caplog.text
    assert batch.teacher_BD is None
    assert batch.teacher_images is None
    assert asked == []
    assert list(tmp_path.iterdir()) == []
    embedding_BD = torch.zeros(8, 4)
    assert method.observe(student_BD=embedding_BD, teacher_BD=embedding_BD)["teacher_cached"] == 0


@pytest.mark.usefixtures("as_if_anew")
def test_class_centres_are_those_of_clean_faces_whatever_the_teacher_sees(tmp_path: Path) -> None:
    clean = make().teacher_centres
    assert torch.equal(make(augmentation={**AUGMENTATION, "seen_by": "both"}).teacher_centres, clean)
    assert list(tmp_path.iterdir()) == []


def test_both_see_the_same_augmented_face_where_the_student_sees_less_of_it() -> None:
    faces = EmbeddedFacesSettings(size_px=16, captured_px=32)
    clean = make("bridge", faces=faces).next_batch()
    both = {**AUGMENTATION, "seen_by": "both"}
    batch = make("bridge", faces=faces, augmentation=both, adapter={"name": "none"}).next_batch()
    assert batch.teacher_images is not None
    assert clean.teacher_images is not None
    assert batch.images.shape == (8, 3, 16, 16)
    assert batch.teacher_images.shape == (8, 3, 32, 32)
    assert not torch.equal(batch.teacher_images, clean.teacher_images)
    torch.testing.assert_close(
        F.avg_pool2d(batch.teacher_images, 2).mean((1, 2, 3)), batch.images.mean((1, 2, 3)), atol=0.05, rtol=0
    )


def test_workers_share_the_augmented_batch_of_one() -> None:
    whole = make(augmentation=AUGMENTATION).next_batch()
    halves = [
        make(shard=Shard(rank=rank, world_size=2), augmentation=AUGMENTATION).next_batch()
        for rank in range(2)
    ]
    assert torch.equal(whole.images, torch.cat([half.images for half in halves]))


class HoledStore(ImageStore):
    """A drawn set of which some images cannot be read."""

    def __init__(self, drawn: LabelledFaces, unreadable: list[int]):
        assert isinstance(drawn.images, Tensor)
        self._images, self._unreadable = drawn.images, torch.tensor(unreadable)
        self.digest = f"{drawn.digest} without {unreadable}"

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        readable_B = ~torch.isin(index_B, self._unreadable)
        return self._images[index_B] * readable_B[:, None, None, None], readable_B


class FromStore(SFaceSettings):
    """SFace on a store: images 1 and 2 of class 0 and all but image 3 of class 1 cannot be read."""

    def draw(self, faces: AnyFacesSettings) -> LabelledFaces:
        drawn = super().draw(faces)
        return LabelledFaces(
            images=HoledStore(drawn, [1, 2, 4, 5, 6]),
            label_N=drawn.label_N,
            group_N=drawn.group_N,
            authentic_N=drawn.authentic_N,
            group_names=drawn.group_names,
        )


@pytest.mark.usefixtures("as_if_anew")
@pytest.mark.parametrize("adapter", ["none", "linear"])
def test_faces_that_cannot_be_read_are_replaced_counted_and_left_out_of_centres(
    adapter: str, tmp_path: Path
) -> None:
    settings = FromStore.model_validate(
        {
            "num_classes": 4,
            "images_per_class": 4,
            "adapter": {"name": adapter} | ({"epochs": 1, "width": 64} if adapter == "linear" else {}),
        }
    )
    method = build(settings, faces=EmbeddedFacesSettings(size_px=16), cache=tmp_path)
    corrupt = 0.0
    for _ in range(2):  # the whole set of 16, in batches of 8
        batch = method.next_batch()
        assert batch.teacher_BD is not None
        assert batch.teacher_BD.isfinite().all()
        torch.testing.assert_close(batch.teacher_BD, method.target(batch.images), rtol=1e-4, atol=1e-4)
        observed = method.observe(student_BD=batch.teacher_BD, teacher_BD=batch.teacher_BD)
        corrupt += observed["corrupt_share"].item() / 2
    assert corrupt == pytest.approx(5 / 16)
    embedding_2ND = method._known.embeddings
    assert embedding_2ND.isnan().any(2)[0].nonzero().squeeze(1).tolist() == [1, 2, 4, 5, 6]
    only_one = F.normalize(F.normalize(embedding_2ND[:, 7].float(), dim=1).sum(0), dim=0)
    torch.testing.assert_close(method.teacher_centres[1], only_one)


def test_centres_of_many_faces_are_those_of_all_at_once() -> None:
    rng = torch.Generator().manual_seed(0)
    embedding_2ND = torch.randn(2, 10_000, 16, generator=rng)
    label_N = torch.randint(50, (10_000,), generator=rng)
    at_once = mean_directions(F.normalize(embedding_2ND, dim=-1).sum(0), label_N, num_classes=50)
    assert torch.equal(class_centres(embedding_2ND, label_N), at_once)


def own_faces(sizes: list[int]) -> LabelledFaces:
    """A set of classes of these sizes."""
    label_N = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    rng = torch.Generator().manual_seed(0)
    return LabelledFaces(
        images=torch.randint(256, (len(label_N), 3, 16, 16), generator=rng).byte(),
        label_N=label_N,
        group_N=torch.zeros_like(label_N),
        authentic_N=torch.ones_like(label_N, dtype=torch.bool),
        group_names=(),
    )


def test_small_classes_show_their_images_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SFaceSettings, "draw", lambda self, faces: own_faces([1, 2, 5, 9]))
    for batch in batches(make(faces_per_class=4, num_classes=13), 12):
        assert set(torch.bincount(torch.tensor(labels(batch))).tolist()) <= {0, 4}
        for label, size in enumerate([1, 2, 5, 9]):
            shown = batch.images[torch.tensor(labels(batch)) == label]
            # A face and its mirror image are two pictures.
            assert len(shown.flatten(1).unique(dim=0)) <= 2 * size


def test_a_set_that_is_smaller_than_a_batch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SFaceSettings, "draw", lambda self, faces: own_faces([2, 5]))
    with pytest.raises(InputError, match="batch_size must be at most 7 for a set of 7 images of 2 ident"):
        make(num_classes=11)
    with pytest.raises(InputError, match="batch_size must be at most 4 for a set of 7 images"):
        make(num_classes=14, faces_per_class=2)
