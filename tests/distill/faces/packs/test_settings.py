"""What a benchmark on disk is taken for, and that its facts are asked for cheaply."""

import os
import pickle
import shutil
from pathlib import Path

import pytest

from distill.errors import InputError
from distill.faces.packs import PairsSettings, settings
from tests.distill.faces.packs.pictures import SMALL_LFW, encoded, picture

IMAGES = [encoded(picture(seed)) for seed in range(40)]


def write_pack(path: Path, *, impostors: int = 10) -> Path:
    answers = [place >= impostors for place in range(20)]
    path.write_bytes(pickle.dumps((IMAGES, answers)))
    return path


def test_facts_are_read_again_when_the_file_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    monkeypatch.setattr(
        settings, "read_pack", lambda path, plain=settings.read_pack: (read.append(path), plain(path))[1]
    )
    path = write_pack(tmp_path / "lfw.bin")
    pack = PairsSettings(path=path)
    assert [pack.facts().num_impostors for _ in range(3)] == [10, 10, 10]
    assert read == [path]
    write_pack(path, impostors=7)
    os.utime(path, ns=(1, 1))
    assert [pack.facts().num_impostors for _ in range(3)] == [7, 7, 7]
    assert read == [path, path]


def test_facts_decode_no_image(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([b"no image"] * 40, [True, False] * 10)))
    assert PairsSettings(path=path).facts().num_impostors == 10
    with pytest.raises(InputError, match=rf"image 0 of {path} cannot be decoded"):
        PairsSettings(path=path).load(name="benchmark", size_px=16)


def test_facts_agree_with_what_is_loaded(tmp_path: Path) -> None:
    pack = PairsSettings(path=write_pack(tmp_path / "lfw.bin", impostors=3))
    pairs = pack.load(name="validation", size_px=16)
    assert pack.facts().num_impostors == int((~pairs.is_genuine_P).sum()) == 3
    assert pack.facts().group_names == pairs.group_names == ()
    assert pairs.name == "validation"
    assert pairs.digest == pack.load(name="validation", size_px=16).digest


def test_an_image_that_comes_twice_is_decoded_once(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((IMAGES[:4] * 10, [True, False] * 10)))
    pairs = PairsSettings(path=path).load(name="benchmark", size_px=12)
    assert len(pairs.images_NCHW) == 4
    assert pairs.left_P.tolist() == [0, 2] * 10
    assert pairs.right_P.tolist() == [1, 3] * 10


@pytest.mark.parametrize(
    ("num_pairs", "answer", "found"),
    [
        (9, None, "10 pairs or more: it has 5 genuine and 4 impostors"),
        (10, True, "genuine pairs and impostors to rank students on, and has 10 genuine and 0"),
        (10, False, "genuine pairs and impostors to rank students on, and has 0 genuine and 10"),
    ],
)
def test_too_few_pairs_and_a_missing_kind_are_told(
    num_pairs: int, answer: bool | None, found: str, tmp_path: Path
) -> None:
    path = tmp_path / "lfw.bin"
    answers = [place % 2 == 0 if answer is None else answer for place in range(num_pairs)]
    path.write_bytes(pickle.dumps((IMAGES[: 2 * num_pairs], answers)))
    with pytest.raises(InputError, match=rf"{path} must have {found}"):
        PairsSettings(path=path).facts()


def test_a_folder_of_something_else_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path} is no folder in RFW's layout") as error:
        PairsSettings(path=tmp_path).facts()
    assert "pack" not in str(error.value).replace(str(tmp_path), "")
    shutil.copy(SMALL_LFW, tmp_path)
    with pytest.raises(InputError, match=r"to read the pack small_lfw\.bin, name the file itself"):
        PairsSettings(path=tmp_path).facts()


def test_a_list_belongs_to_a_folder(tmp_path: Path) -> None:
    listing = tmp_path / "pairs.txt"
    listing.write_text("10 300\n")
    with pytest.raises(
        InputError, match=f"{SMALL_LFW} must be the folder of the images that {listing} lists"
    ):
        PairsSettings(path=SMALL_LFW, pairs=listing).facts()
    with pytest.raises(InputError, match=r"nowhere cannot be read \(No such file or directory\)"):
        PairsSettings(path=tmp_path / "nowhere", pairs=listing).facts()
    with pytest.raises(InputError, match=f"{listing} must have 10 pairs or more: it has 0 genuine"):
        PairsSettings(path=tmp_path, pairs=listing).facts()


def test_a_list_of_another_kind_is_told_by_what_it_looks_like(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"small_lfw\.bin is no list of pairs: it looks like a pickle"):
        PairsSettings(path=tmp_path, pairs=SMALL_LFW).facts()
    with pytest.raises(InputError, match=rf"{tmp_path} cannot be read \(Is a directory\)"):
        PairsSettings(path=tmp_path, pairs=tmp_path).facts()


def test_a_group_of_rfw_without_a_list_is_told(tmp_path: Path) -> None:
    (tmp_path / "txts" / "African").mkdir(parents=True)
    with pytest.raises(InputError, match=r"txts/African/African_pairs\.txt cannot be read \(No such file"):
        PairsSettings(path=tmp_path).facts()
    (tmp_path / "txts" / "african").mkdir()
    for group in ("African", "african"):
        (tmp_path / "txts" / group / f"{group}_pairs.txt").touch()
    with pytest.raises(InputError, match="differ in punctuation only: African, african"):
        PairsSettings(path=tmp_path).facts()
