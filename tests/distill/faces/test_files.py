"""Faces of one's own: what is trained on, what is held out, and what each is measured with."""

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from distill.errors import InputError
from distill.faces import FilesFacesSettings, LabelledFaces
from tests.distill.faces.stored.writer import picture, write_with_header


def encoded(seed: int, *, size_px: int = 16) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture(seed, size=(size_px, size_px))).save(stream, "PNG")
    return stream.getvalue()


def pack(folder: Path, *, identities: int, images: int, first: int = 0) -> Path:
    """A pack whose images all differ."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = iter(range(first, first + identities * images))
    write_with_header(
        folder / "train.rec", [[encoded(next(seeds)) for _ in range(images)] for _ in range(identities)]
    )
    return folder


def benchmark(path: Path, *, pairs: int = 20) -> Path:
    images = [encoded(100_000 + i) for i in range(2 * pairs)]
    path.write_bytes(pickle.dumps((images, [i % 2 == 0 for i in range(pairs)])))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    pack(root / "real", identities=50, images=4)
    pack(root / "made", identities=30, images=6, first=50_000)
    benchmark(root / "lfw.bin")
    benchmark(root / "agedb.bin", pairs=12)
    (root / "groups.csv").write_text("identity,group\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(50)))
    return root


def settings(root: Path, **changes: object) -> FilesFacesSettings:
    told = {
        "training": [{"path": root / "real"}],
        "benchmark": {"path": root / "lfw.bin"},
        "size_px": 16,
    }
    return FilesFacesSettings.model_validate(told | changes)


def contents(faces: LabelledFaces) -> set[bytes]:
    images, _ = faces.read(torch.arange(len(faces)))
    return {image.numpy().tobytes() for image in images}


EVERYTHING: dict[str, Any] = {"num_classes": 1_000, "images_per_class": 1_000}


def test_a_named_pack_leaves_all_identities_to_training(root: Path) -> None:
    faces = settings(root, validation={"path": root / "agedb.bin"})
    assert faces.labelled(**EVERYTHING).num_classes == 50
    assert faces.pair_facts("validation").num_impostors == 6
    assert faces.validation_pairs().name == "validation"
    assert len(faces.validation_pairs().is_genuine_P) == 12


def test_nobody_is_both_trained_and_validated_on(root: Path) -> None:
    faces = settings(root, held_out_share=0.5)
    training = faces.labelled(**EVERYTHING)
    pairs = faces.validation_pairs()
    assert training.num_classes == 25
    held_out = {image.numpy().tobytes() for image in pairs.images_NCHW}
    assert not held_out & contents(training)
    assert faces.pair_facts("validation").num_impostors == int((~pairs.is_genuine_P).sum())
    assert torch.equal(settings(root, held_out_share=0.5).validation_pairs().images_NCHW, pairs.images_NCHW)


def test_as_many_are_held_out_as_pairs_need(root: Path) -> None:
    assert settings(root, held_out_share=0.01).labelled(**EVERYTHING).num_classes == 30


def test_each_group_is_held_out_alike(root: Path) -> None:
    grouped = [{"path": root / "real", "groups": root / "groups.csv"}]
    faces = settings(root, training=grouped, held_out_share=0.81)
    training = faces.labelled(**EVERYTHING)
    assert training.group_names == ("a", "b")
    assert torch.bincount(training.group_N[training.first_images]).tolist() == [5, 5]
    assert faces.pair_facts("validation").group_names == ("a", "b")


def test_a_set_is_cut_to_what_the_method_asks_for(root: Path) -> None:
    faces = settings(root, validation={"path": root / "agedb.bin"})
    cut = faces.labelled(num_classes=7, images_per_class=3)
    assert torch.bincount(cut.label_N).tolist() == [3] * 7
    assert contents(cut) < contents(faces.labelled(**EVERYTHING))
    assert faces.labelled(num_classes=7, images_per_class=3).digest == cut.digest


def test_real_and_made_faces_mix_by_their_images(root: Path) -> None:
    sources = [
        {"path": root / "real", "share": 0.5},
        {"path": root / "made", "share": 0.5, "authentic": False},
    ]
    faces = settings(root, training=sources, validation={"path": root / "agedb.bin"})
    mixed = faces.labelled(**EVERYTHING)
    assert abs(int(mixed.authentic_N.sum()) - len(mixed) / 2) <= 3
    assert faces.labelled(**EVERYTHING, authentic=False).authentic_N.any().item() is False


def test_a_method_mixes_identities_itself(root: Path) -> None:
    sources = [{"path": root / "real"}, {"path": root / "made", "authentic": False}]
    faces = settings(root, training=sources, validation={"path": root / "agedb.bin"})
    mixed = faces.mixed(num_classes=40, authentic_share=0.6, images_per_class=2, synthetic_per_class=5)
    authentic_C = mixed.authentic_N[mixed.first_images]
    assert authentic_C.sum().item() == 24
    sizes = torch.bincount(mixed.label_N)
    assert sizes[authentic_C].unique().tolist() == [2]
    assert sizes[~authentic_C].unique().tolist() == [5]
    # 30 made identities are 40 % of no more than 75.
    most = faces.mixed(num_classes=1_000, authentic_share=0.6, images_per_class=1, synthetic_per_class=1)
    assert most.num_classes == 75


def test_a_kind_that_is_not_there_is_told(root: Path) -> None:
    with pytest.raises(InputError, match="must hold a source with `authentic: false`"):
        settings(root).mixed(num_classes=4, authentic_share=0.5, images_per_class=1, synthetic_per_class=1)
    with pytest.raises(InputError, match="no faces of the kind that the method asks for"):
        settings(root).labelled(num_classes=4, images_per_class=1, authentic=False)


def test_agreement_is_measured_on_people_who_are_not_trained_on(root: Path) -> None:
    faces = settings(root, validation={"path": root / "agedb.bin"})
    shown = faces.agreement_faces(10)
    assert shown.shape == (10, 3, 16, 16)
    assert torch.equal(shown, faces.validation_pairs().images_NCHW[:10].float() / 127.5 - 1)


def test_small_faces_are_reduced_from_sharp_ones(root: Path) -> None:
    faces = settings(root, size_px=16, captured_px=32)
    assert faces.labelled(**EVERYTHING).read(torch.arange(2))[0].shape[-1] == 32
    assert faces.validation_pairs().images_NCHW.shape[-1] == 16
    assert faces.agreement_faces(2).shape[-1] == 32


def test_shares_are_of_one_whole(root: Path) -> None:
    for shares in ([0.5, 0.6], [0.5, None]):
        sources = [
            {"path": root / name, "share": s} for name, s in zip(("real", "made"), shares, strict=True)
        ]
        with pytest.raises(ValidationError, match="give every source a share, or none"):
            settings(root, training=sources)


def test_paths_are_found_from_where_they_were_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    faces = settings(Path("."))
    monkeypatch.chdir("/")
    assert faces.training[0].path == root / "real"
    assert faces.labelled(**EVERYTHING).num_classes == 30
