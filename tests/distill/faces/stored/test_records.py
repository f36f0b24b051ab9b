"""InsightFace's packs, against packs that the test writes after the format's description."""

import io
import os
import pickle
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from distill.errors import InputError
from distill.faces.stored.identified import Identified
from distill.faces.stored.records import RecordStore, open_records
from tests.distill.faces.stored.writer import (
    MAGIC,
    encode,
    jpeg,
    payload,
    record,
    write_index,
    write_records,
    write_with_header,
)

SIZES = (3, 1, 4, 2)
IMAGES_OF = [[jpeg(10 * identity + k) for k in range(size)] for identity, size in enumerate(SIZES)]
ALL_IMAGES = [image for images in IMAGES_OF for image in images]


def opened(path: Path, *, max_corrupt_share: float = 0.0) -> Identified:
    return open_records(path, size_px=16, max_corrupt_share=max_corrupt_share)


def files(found: Identified) -> list[bytes]:
    return [found.images.encoded(index) for index in range(len(found.images))]


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A pack with InsightFace's header."""
    write_with_header(tmp_path / "train.rec", IMAGES_OF)
    return tmp_path / "train.rec"


@pytest.mark.parametrize("aligned", [False, True])
def test_a_pack_with_a_header_tells_its_identities_by_ranges(tmp_path: Path, aligned: bool) -> None:
    write_with_header(tmp_path / "a.rec", IMAGES_OF, aligned=aligned)
    found = opened(tmp_path / "a.rec")
    assert files(found) == ALL_IMAGES
    assert found.label_N.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3]
    assert found.label_N.dtype == torch.int64
    assert found.identities == ("0", "1", "2", "3")
    images, readable_B = found.images.read(torch.tensor([9, 0]))
    assert readable_B.all()
    expected = np.stack([np.asarray(Image.open(io.BytesIO(ALL_IMAGES[index]))) for index in (9, 0)])
    assert images.permute(0, 2, 3, 1).numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("first_key", [0, 1])
@pytest.mark.parametrize("vector", [False, True])
def test_a_pack_without_a_header_tells_its_identities_by_labels(
    tmp_path: Path, first_key: int, vector: bool
) -> None:
    rows = [(label, image) for label, images in zip((7, 0, 3, 5), IMAGES_OF, strict=True) for image in images]
    random.Random(0).shuffle(rows)
    write_records(
        tmp_path / "a.rec",
        [
            (first_key + key, payload(image, (label, 1.0, 0.5) if vector else label))
            for key, (label, image) in enumerate(rows)
        ],
    )
    found = opened(tmp_path / "a.rec")
    # Stable: within an identity, images come in the order of their keys.
    assert files(found) == [image for wanted in (0, 3, 5, 7) for label, image in rows if label == wanted]
    assert found.label_N.tolist() == [0] + [1] * 4 + [2] * 2 + [3] * 3
    assert found.identities == ("0", "3", "5", "7")


def test_keys_and_offsets_may_come_in_any_order(pack: Path) -> None:
    lines = pack.with_suffix(".idx").read_text().splitlines(keepends=True)
    before = opened(pack)
    for seed in range(3):
        random.Random(seed).shuffle(lines)
        pack.with_suffix(".idx").write_text("".join(lines))
        assert files(opened(pack)) == ALL_IMAGES
        assert opened(pack).images.digest == before.images.digest


def test_empty_records_of_a_pack_without_a_header_are_no_images(tmp_path: Path) -> None:
    write_records(
        tmp_path / "a.rec",
        [(1, payload(ALL_IMAGES[0], 0)), (2, payload(b"", (1, 2))), (3, payload(ALL_IMAGES[1], 1))],
    )
    found = opened(tmp_path / "a.rec")
    assert files(found) == ALL_IMAGES[:2]
    assert found.images.corrupt.count == 0


def test_an_identity_without_images_takes_no_label(tmp_path: Path) -> None:
    write_with_header(tmp_path / "a.rec", [IMAGES_OF[0], [], IMAGES_OF[1], []])
    found = opened(tmp_path / "a.rec")
    assert found.label_N.tolist() == [0, 0, 0, 1]
    assert found.identities == ("0", "2")


@pytest.mark.parametrize("label", [3, (3, 1)])
@pytest.mark.parametrize(
    ("tail", "num_parts"),
    [
        (MAGIC, 2),
        (MAGIC * 3, 4),
        (MAGIC + b"abcd" + MAGIC, 3),
        (b"abcd" + MAGIC + b"a", 2),
        (MAGIC + b"abcdefg", 2),
        (b"a" + MAGIC + b"bcd", 1),
        (MAGIC[::-1], 1),
    ],
)
def test_the_magic_number_within_an_image_is_put_back(
    tmp_path: Path, tail: bytes, num_parts: int, label: object
) -> None:
    image = ALL_IMAGES[0] + bytes(-len(ALL_IMAGES[0]) % 4) + tail  # JPEG ignores what follows its end
    written = record(payload(image, 0))
    assert sum(written[at : at + 4] == MAGIC for at in range(0, len(written), 4)) == num_parts
    others = ALL_IMAGES[1], ALL_IMAGES[2]
    for name, content in (("first", (image, *others)), ("last", (*others, image))):
        path = tmp_path / f"{name}.rec"
        write_records(path, [(key, payload(each, label)) for key, each in enumerate(content)])  # type: ignore[arg-type]
        found = opened(path)
        assert files(found) == list(content)
        assert found.identities == ("3",)
        assert found.images.read(torch.arange(3))[1].all()


@pytest.mark.parametrize("label", [4, (4, 1)])
def test_a_record_that_is_cut_within_its_head_still_tells_its_label(tmp_path: Path, label: object) -> None:
    write_records(
        tmp_path / "a.rec",
        [
            (0, payload(ALL_IMAGES[0], label, number=0xCED7230A)),  # type: ignore[arg-type]
            (1, payload(ALL_IMAGES[1], 2)),
        ],
    )
    found = opened(tmp_path / "a.rec")
    assert files(found) == [ALL_IMAGES[1], ALL_IMAGES[0]]
    assert found.identities == ("2", "4")


def test_a_pickled_store_reads_in_another_process(pack: Path) -> None:
    store = opened(pack).images
    images, _ = store.read(torch.arange(10))
    program = (
        "import pickle, sys, torch\n"
        "store = pickle.loads(sys.stdin.buffer.read())\n"
        "sys.stdout.buffer.write(store.read(torch.arange(10))[0].numpy().tobytes())\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(store), capture_output=True, check=True
    )
    assert other.stdout == images.numpy().tobytes()


def test_a_pickle_tells_where_images_are_and_does_not_hold_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [encode(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), "PNG") for _ in range(20)]
    write_with_header(tmp_path / "a.rec", [noise])
    assert len(pickle.dumps(opened(tmp_path / "a.rec").images)) < 3_000 < (tmp_path / "a.rec").stat().st_size


def test_a_pack_that_changed_on_the_way_is_refused(pack: Path) -> None:
    pickled = pickle.dumps(opened(pack).images)
    pack.write_bytes(pack.read_bytes() + MAGIC)
    with pytest.raises(InputError, match=r"train\.rec has changed: it had [\d,]+ bytes, and now has"):
        pickle.loads(pickled)


def test_a_pack_that_is_gone_on_arrival_is_told(pack: Path) -> None:
    pickled = pickle.dumps(opened(pack).images)
    pack.unlink()
    with pytest.raises(InputError, match=r"train\.rec cannot be read \(No such file or directory\)"):
        pickle.loads(pickled)


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def without_index(pack: Path) -> None:
    pack.with_suffix(".idx").unlink()


def empty_index(pack: Path) -> None:
    pack.with_suffix(".idx").write_text("")


def index_of_words(pack: Path) -> None:
    pack.with_suffix(".idx").write_text("1\t0\ntwo\t40\n")


def index_without_offsets(pack: Path) -> None:
    pack.with_suffix(".idx").write_text("1\t0\n2\t\n")


def index_of_one_column(pack: Path) -> None:
    pack.with_suffix(".idx").write_text("1\n2\n")


def index_of_another_pack(pack: Path) -> None:
    pack.with_suffix(".idx").write_text(f"1\t0\n2\t{pack.stat().st_size}\n")


def crooked_index(pack: Path) -> None:
    pack.with_suffix(".idx").write_text("1\t0\n2\t42\n")


def repeated_key(pack: Path) -> None:
    pack.with_suffix(".idx").write_text("1\t0\n2\t0\n2\t0\n")


def empty_pack(pack: Path) -> None:
    pack.write_bytes(b"")


def other_file(pack: Path) -> None:
    pack.write_bytes(b"PK\x03\x04" * 100)


def pack_cut_short(pack: Path) -> None:
    os.truncate(pack, pack.stat().st_size - 1)


def pack_cut_at_a_multiple_of_4(pack: Path) -> None:
    os.truncate(pack, pack.stat().st_size // 8 * 4)


def header_with(ends: tuple[float, float]) -> Callable[[Path], None]:
    def change(pack: Path) -> None:
        overwrite(pack, pack.stat().st_size - 8, struct.pack("<ff", *ends))

    return change


def second_range_with(ends: tuple[float, float]) -> Callable[[Path], None]:
    def change(pack: Path) -> None:
        overwrite(pack, pack.stat().st_size - 3 * 40 - 8, struct.pack("<ff", *ends))

    return change


def damaged_range(pack: Path) -> None:
    overwrite(pack, pack.stat().st_size - 4 * 40, b"\0")


def index_without_an_image(pack: Path) -> None:
    lines = pack.with_suffix(".idx").read_text().splitlines(keepends=True)
    pack.with_suffix(".idx").write_text("".join(line for line in lines if not line.startswith("4\t")))


def no_image(pack: Path) -> None:
    write_with_header(pack, [[], []])


def only_damaged_labels(pack: Path) -> None:
    write_records(pack, [(0, payload(ALL_IMAGES[0], 0.5)), (1, payload(ALL_IMAGES[1], float("nan")))])


def property_with(text: str) -> Callable[[Path], object]:
    return lambda pack: (pack.parent / "property").write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_index, r"train\.idx is missing: a pack cannot be read without its index"),
        (empty_index, r"train\.idx must hold lines of a key, a tab and an offset \(Empty CSV file\)"),
        (index_of_words, r"train\.idx must hold lines of a key, a tab and an offset \(.*'two'\)"),
        (index_without_offsets, r"train\.idx must hold lines of .* got lines without one"),
        (index_of_one_column, r"train\.idx must hold lines of a key, a tab and an offset \("),
        (index_of_another_pack, r"train\.idx must tell offsets .* got [\d,]+ of key 2: one of the two files"),
        (crooked_index, r"train\.idx must tell offsets that are multiples of 4 .* got 42 of key 2"),
        (repeated_key, r"train\.idx must tell one offset of each key, got several of key 2"),
        (empty_pack, r"train\.rec is empty"),
        (other_file, r"train\.rec is no pack of records: it does not begin with 0xCED7230A"),
        (pack_cut_short, r"train\.rec is cut short: [\d,]+ bytes are not a multiple of 4"),
        (pack_cut_at_a_multiple_of_4, r"train\.idx must tell offsets .* one of the two files is cut short"),
        (header_with((11.5, 15)), r"has a header that names the keys 11\.5 to 15 as identities"),
        (header_with((15, 11)), r"has a header that names the keys 15 to 11 as identities"),
        (header_with((0, 4)), r"has a header that names the keys 0 to 4 as identities"),
        (header_with((11, 2.0**25)), r"must be whole numbers in \[1, 16,777,216\)"),
        (header_with((11, float("nan"))), r"has a header that names the keys 11 to nan"),
        (header_with((11, 20)), r"has 9 identities by its header, but its index knows 4"),
        (second_range_with((4, 3)), r"record of key 12 must name the images of an identity, as a range"),
        (second_range_with((4, 12)), r"record of key 12 must name .* of keys in \[1, 11\)"),
        (second_range_with((3, 5)), r"its identities share images"),
        (damaged_range, r"train\.rec is damaged: the record of key 12 must name the images of an identity"),
        (index_without_an_image, r"has an image of key 4, which its index does not know"),
        (no_image, r"train\.rec holds no image whose identity is known"),
        (only_damaged_labels, r"train\.rec holds no image whose identity is known"),
        (property_with("3,112,112"), r"property tells of 3 classes, but the pack has a class 3"),
        (property_with("four"), r"property must hold num_classes,height,width, got 'four'"),
        (property_with("4,112"), r"property must hold num_classes,height,width, got '4,112'"),
    ],
)
def test_what_is_wrong_with_a_pack_is_told_in_one_sentence(
    pack: Path, change: Callable[[Path], object], message: str
) -> None:
    change(pack)
    with pytest.raises(InputError, match=message) as error:
        opened(pack)
    assert "\n" not in str(error.value)
    assert str(pack.parent) in str(error.value)


def test_a_missing_pack_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.rec cannot be read \(No such file or directory\)"):
        opened(tmp_path / "none.rec")


def test_a_property_that_agrees_is_accepted(pack: Path) -> None:
    (pack.parent / "property").write_text("4,112,112\n")
    assert len(opened(pack).identities) == 4


@pytest.mark.parametrize(
    ("place", "content", "reason"),
    [
        (0, b"\0\0\0\0", "no record begins at byte"),
        (4, struct.pack("<I", 2**29 - 1), "its record is cut short"),
        (4, struct.pack("<I", 2 << 29 | 40), "the parts of its record are out of order"),
        (4, struct.pack("<I", 1 << 29 | 40), "no record begins at byte"),
        (4, struct.pack("<I", 5 << 29 | 40), "its record is cut short"),
        (4, struct.pack("<I", 24), "its record holds no image"),
        (8, struct.pack("<I", 10**6), "its record holds no image"),
        (60, bytes(100), "it is none of JPEG"),
    ],
)
def test_a_damaged_record_is_a_corrupt_image(tmp_path: Path, place: int, content: bytes, reason: str) -> None:
    offsets = write_with_header(tmp_path / "a.rec", IMAGES_OF)
    if reason.startswith("it is none"):
        place = 8 + 24
    overwrite(tmp_path / "a.rec", offsets[5] + place, content)
    store = opened(tmp_path / "a.rec", max_corrupt_share=0.1).images
    _, readable_B = store.read(torch.arange(10))
    assert readable_B.tolist() == [index != 4 for index in range(10)]
    assert store.corrupt.names[0].startswith(f"the record of key 5 ({reason}")


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan"), float("inf"), 1e30])
def test_a_record_that_tells_no_identity_counts_as_corrupt(tmp_path: Path, label: float) -> None:
    write_records(
        tmp_path / "a.rec",
        [(key, payload(image, label if key == 2 else 1)) for key, image in enumerate(ALL_IMAGES)],
    )
    found = opened(tmp_path / "a.rec", max_corrupt_share=0.1)
    assert files(found) == ALL_IMAGES[:2] + ALL_IMAGES[3:]
    assert found.images.corrupt.count == found.images.corrupt.num_read == 1
    assert found.images.corrupt.names[0].startswith("the record of key 2 (")
    with pytest.raises(InputError, match=r"a\.rec has 1 unreadable images .* the record of key 2"):
        opened(tmp_path / "a.rec")


def test_the_digest_sees_what_is_on_the_images_without_decoding_them(tmp_path: Path) -> None:
    def digest(images_of: list[list[bytes]], *, size_px: int = 16) -> str:
        write_with_header(tmp_path / "a.rec", images_of)
        return open_records(tmp_path / "a.rec", size_px=size_px, max_corrupt_share=0).images.digest

    same = digest(IMAGES_OF)
    assert digest(IMAGES_OF) == same
    others = [
        digest(IMAGES_OF, size_px=17),
        digest(IMAGES_OF[:3]),
        digest([[*IMAGES_OF[0], *IMAGES_OF[1]], *IMAGES_OF[2:]]),
        digest([[IMAGES_OF[0][0] + bytes(4), *IMAGES_OF[0][1:]], *IMAGES_OF[1:]]),
    ]
    assert len({same, *others}) == 5


def test_a_pack_of_fifty_gigabytes_opens_within_little_memory(tmp_path: Path) -> None:
    path, num_images, far = tmp_path / "train.rec", 100_000, 50 * 2**30
    first = [record(payload(image, 0)) for image in ALL_IMAGES]
    offsets = {}
    with path.open("wb") as file:
        for key, content in enumerate(first, start=1):
            offsets[key] = file.tell()
            file.write(content)
        try:
            file.truncate(far)
        except OSError:
            pytest.skip("the file system has no room for a file of 50 GB, even an empty one")
        offsets |= {key: 4 * (key * (far // 4) // (num_images + 2)) for key in range(11, num_images + 1)}
        file.seek(far)
        for k in range(1_000):
            offsets[num_images + 1 + k] = file.tell()
            file.write(record(payload(b"", (1 + 100 * k, 101 + 100 * k))))
        offsets[0] = file.tell()
        file.write(record(payload(b"", (num_images + 1, num_images + 1_001))))
    write_index(path, offsets)
    if path.stat().st_blocks * 512 > 2**24:
        pytest.skip("the file system writes empty space out")
    process = psutil.Process()
    before = process.memory_info().rss
    found = opened(path, max_corrupt_share=0.5)
    images, readable_B = found.images.read(torch.tensor([0, 9, 50_000]))
    assert process.memory_info().rss - before < 2**26
    assert isinstance(found.images, RecordStore)
    assert len(found.images) == num_images
    assert len(found.identities) == 1_000
    assert readable_B.tolist() == [True, True, False]
    assert images[1].any()
