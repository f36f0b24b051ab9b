"""Folders of identities."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from distill.errors import InputError
from distill.faces.stored.folders import open_folder
from distill.faces.stored.identified import Identified
from tests.distill.faces.stored.writer import encode, jpeg, picture


def make_folder(root: Path) -> Path:
    for name in ("b/2.jpg", "b/10.JPEG", "a/x.png", "a/y.webp", "a/w.bmp", "c c/ü.jpg"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        format = {".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}.get(path.suffix, "JPEG")
        path.write_bytes(encode(picture(len(name)), format))
    return root


def opened(root: Path, *, size_px: int = 16) -> Identified:
    return open_folder(root, size_px=size_px, max_corrupt_share=0.0)


def names(found: Identified) -> list[str]:
    return [found.images.name_of(index) for index in range(len(found.images))]


def test_identities_and_images_are_ordered_by_name(tmp_path: Path) -> None:
    found = opened(make_folder(tmp_path))
    assert names(found) == ["a/w.bmp", "a/x.png", "a/y.webp", "b/10.JPEG", "b/2.jpg", "c c/ü.jpg"]
    assert found.label_N.tolist() == [0, 0, 0, 1, 1, 2]
    assert found.label_N.dtype == torch.int64
    assert found.identities == ("a", "b", "c c")
    assert found.images.read(torch.arange(6))[1].all()
    assert found.images.encoded(4) == (tmp_path / "b/2.jpg").read_bytes()


def test_what_is_no_image_is_passed_over_and_an_empty_identity_takes_no_label(tmp_path: Path) -> None:
    before = opened(make_folder(tmp_path))
    for name in (
        "notes.txt",
        "a/Thumbs.db",
        "aa/readme.md",
        "b/._2.jpg",
        ".cache/1.jpg",
        "0/deeper/1.jpg",
        "z.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(0))
    (tmp_path / "a" / "folder.jpg").mkdir()
    after = opened(tmp_path)
    assert names(after) == names(before)
    assert after.identities == before.identities
    assert after.images.digest == before.images.digest


def test_names_that_are_no_text_are_kept_as_they_are(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    Path(os.fsdecode(folder + b"/\xff.jpg")).write_bytes(jpeg(0))
    assert opened(tmp_path).images.read(torch.tensor([0]))[1].all()


def test_the_digest_sees_names_sizes_and_identities_and_not_the_place(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "one")
    digests = [opened(root).images.digest, opened(root, size_px=17).images.digest]
    assert opened(make_folder(tmp_path / "two")).images.digest == digests[0]
    (root / "b/2.jpg").rename(root / "b/3.jpg")
    digests.append(opened(root).images.digest)
    (root / "b/3.jpg").write_bytes((root / "b/3.jpg").read_bytes() + b"\0")
    digests.append(opened(root).images.digest)
    (root / "b/3.jpg").rename(root / "c c/3.jpg")
    digests.append(opened(root).images.digest)
    assert len(set(digests)) == 5


def test_a_pickled_store_reads_the_same_files(tmp_path: Path) -> None:
    store = opened(make_folder(tmp_path)).images
    copy = pickle.loads(pickle.dumps(store))
    torch.testing.assert_close(copy.read(torch.arange(6))[0], store.read(torch.arange(6))[0])
    assert copy.digest == store.digest


def test_a_file_that_went_away_is_a_corrupt_image(tmp_path: Path) -> None:
    store = opened(make_folder(tmp_path)).images
    (tmp_path / "b/2.jpg").unlink()
    with pytest.raises(InputError, match=r"1 unreadable .* b/2\.jpg \(No such file or directory\)"):
        store.read(torch.arange(6))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match=r"holds no folder of images; an image ends in one of \.jpg, "):
        opened(tmp_path)
