"""Decoding in threads, against Pillow alone; and what becomes of images that cannot be decoded."""

import io
import multiprocessing
import pickle
import struct
import threading
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from distill.errors import InputError
from distill.faces import LabelledFaces
from distill.faces.stored import CorruptImages, EncodedStore, decode
from tests.distill.faces.stored.writer import encode, jpeg, picture

JPEGS = [jpeg(seed) for seed in range(40)]
TRUNCATED = JPEGS[0][:-100]


class Listed(EncodedStore):
    """Files in a list, and how often each was asked for."""

    def __init__(self, files: list[bytes], *, max_corrupt_share: float = 0.0, size_px: int = 16):
        super().__init__(
            source="the list", num_images=len(files), size_px=size_px, max_corrupt_share=max_corrupt_share
        )
        self.files, self.asked, self.digest = files, Counter[int](), ""

    def encoded(self, index: int) -> bytes:
        self.asked[index] += 1
        return self.files[index]

    def name_of(self, index: int) -> str:
        return f"file {index}"


def by_pillow(encoded: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(encoded)).convert("RGB"))).permute(2, 0, 1)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_images_are_those_that_pillow_decodes_in_the_order_of_the_indices() -> None:
    index_B = torch.randint(len(JPEGS), (100,), generator=torch.Generator().manual_seed(0))
    images, readable_B = Listed(JPEGS).read(index_B)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert readable_B.all()
    torch.testing.assert_close(images, torch.stack([by_pillow(JPEGS[i]) for i in index_B.tolist()]))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP"])
def test_other_formats_are_read(format: str) -> None:
    encoded = encode(picture(0), format)
    torch.testing.assert_close(torch.tensor(decode(encoded, size_px=16)), by_pillow(encoded))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_colour_becomes_rgb(mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(picture(0)).convert(mode).save(file, "JPEG" if mode == "CMYK" else "PNG")
    torch.testing.assert_close(torch.tensor(decode(file.getvalue(), size_px=16)), by_pillow(file.getvalue()))


@pytest.mark.parametrize("size", [(96, 48), (48, 96), (64, 32), (16, 40), (12, 24), (40, 8)])
def test_another_size_is_resized_by_its_short_side_and_cropped_at_its_centre(size: tuple[int, int]) -> None:
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    scale = 16 / min(size)
    resized = F.interpolate(
        torch.from_numpy(noise).permute(2, 0, 1)[None].float(),
        size=(int(scale * height), int(scale * width)),
        mode="bilinear",
        antialias=True,
    )[0]
    top, left = (resized.shape[1] - 16) // 2, (resized.shape[2] - 16) // 2
    torch.testing.assert_close(
        torch.tensor(decode(encode(noise, "PNG"), size_px=16)).float(),
        resized[:, top : top + 16, left : left + 16],
        atol=1,
        rtol=0,
    )


def test_a_large_photograph_is_reduced_as_if_it_were_decoded_whole() -> None:
    encoded = jpeg(3, size=(1000, 800))
    square = by_pillow(encoded)[None, :, :, 100:900].float()
    whole = F.interpolate(square, size=(16, 16), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(torch.tensor(decode(encoded, size_px=16)).float(), whole, atol=2, rtol=0)


@pytest.mark.parametrize("side", [8_193, 12_000, 60_000])
def test_an_image_that_claims_too_many_pixels_is_refused(side: int) -> None:
    with pytest.raises(InputError, match=r"file 0 \(.*pixels"):
        Listed([png_claiming(side, side)]).read(torch.tensor([0]))


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (b"", "it is none of JPEG"),
        (b"no image at all", "it is none of JPEG"),
        (TRUNCATED, "Truncated"),
        (encode(picture(0), "PNG")[:-30], "file 1"),
        (JPEGS[0][:20], "file 1"),
    ],
)
def test_a_damaged_image_is_zero_and_said_to_be_unreadable(damaged: bytes, reason: str) -> None:
    store = Listed([JPEGS[0], damaged, JPEGS[1]], max_corrupt_share=0.5)
    images, readable_B = store.read(torch.tensor([2, 1, 0]))
    assert readable_B.tolist() == [True, False, True]
    assert not images[1].any()
    torch.testing.assert_close(images[2], by_pillow(JPEGS[0]))
    assert (store.corrupt.count, store.corrupt.num_read) == (1, 3)
    assert store.corrupt.names[0].startswith("file 1 (")
    assert reason in store.corrupt.names[0]


def test_an_image_counts_once_however_often_it_is_read() -> None:
    store = Listed([*JPEGS[:3], b""], max_corrupt_share=0.5)
    for _ in range(3):
        store.read(torch.tensor([3, 0, 3, 0]))
    assert (store.corrupt.count, store.corrupt.num_read) == (1, 2)


def test_too_large_a_share_ends_it_as_soon_as_the_whole_set_cannot_have_less() -> None:
    store = Listed([b""] * 3 + JPEGS[:17], max_corrupt_share=0.1)
    store.read(torch.tensor([0, 1]))
    with pytest.raises(
        InputError,
        match=r"^the list has 3 unreadable images among the 4 read so far, more than max_corrupt_share "
        r"\(0\.1\) allows; the first is file 0 \(it is none of JPEG, PNG, WEBP, BMP\)$",
    ):
        store.read(torch.tensor([10, 2]))
    with pytest.raises(InputError, match="3 unreadable"):
        store.read(torch.tensor([2]))


def test_an_early_accident_in_a_large_set_ends_nothing() -> None:
    store = Listed([b""] * 11 + [JPEGS[0]] * 5_000, max_corrupt_share=0.01)
    store.read(torch.arange(10))
    with pytest.raises(InputError, match="11 unreadable images among the 11 read"):
        store.read(torch.tensor([10]))


def test_what_is_read_well_later_makes_room_for_more() -> None:
    store = Listed([b""] * 12 + [JPEGS[0]] * 1_500, max_corrupt_share=0.01)
    for index_B in torch.arange(len(store)).flip(0).split(256):
        store.read(index_B)
    assert (store.corrupt.count, store.corrupt.num_read) == (12, 1_512)


def test_no_share_at_all_ends_it_at_the_first() -> None:
    with pytest.raises(InputError, match="1 unreadable"):
        Listed([*JPEGS, TRUNCATED]).read(torch.tensor([40]))


def test_what_is_expected_is_decoded_once_and_picked_up() -> None:
    store, index_B = Listed(JPEGS), torch.tensor([5, 3, 5, 1])
    plain, _ = store.read(index_B)
    store.asked.clear()
    store.expect(index_B)
    other, _ = store.read(torch.tensor([7]))
    images, readable_B = store.read(index_B.clone())
    assert store.asked == {5: 2, 3: 1, 1: 1, 7: 1}
    assert readable_B.all()
    torch.testing.assert_close(images, plain)
    torch.testing.assert_close(other[0], by_pillow(JPEGS[7]))
    store.read(index_B)
    assert store.asked[3] == 2


def test_a_new_expectation_replaces_the_old_one() -> None:
    store = Listed(JPEGS)
    store.expect(torch.arange(3))
    store.expect(torch.arange(10, 13))
    images, _ = store.read(torch.arange(3))
    torch.testing.assert_close(images, torch.stack([by_pillow(JPEGS[i]) for i in range(3)]))
    assert store.asked[11] <= 1


def test_an_index_that_changes_after_it_was_expected_is_not_mistaken_for_it() -> None:
    store, index_B = Listed(JPEGS), torch.tensor([1, 2])
    store.expect(index_B)
    index_B += 5
    torch.testing.assert_close(store.read(index_B)[0][0], by_pillow(JPEGS[6]))


def test_what_is_expected_and_never_read_does_not_count() -> None:
    store = Listed([*JPEGS, b""], max_corrupt_share=0.5)
    store.expect(torch.tensor([40, 0]))
    store.read(torch.tensor([1]))
    assert store.corrupt == CorruptImages(count=0, num_read=1)


def test_as_many_threads_decode_as_torch_computes_with() -> None:
    meeting = threading.Barrier(2, timeout=10)

    class Meeting(Listed):
        def encoded(self, index: int) -> bytes:
            meeting.wait()
            return super().encoded(index)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert Meeting(JPEGS).read(torch.arange(32))[1].all()
    finally:
        torch.set_num_threads(threads)


def test_several_threads_may_read_at_once() -> None:
    store = Listed([*JPEGS, b""], max_corrupt_share=0.5)
    whole, _ = store.read(torch.arange(41))

    def read(seed: int) -> bool:
        index_B = torch.randperm(41, generator=torch.Generator().manual_seed(seed))
        store.expect(index_B.flip(0))
        images, readable_B = store.read(index_B)
        return torch.equal(images, whole[index_B]) and int(readable_B.sum()) == 40

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(24)))
    assert (store.corrupt.count, store.corrupt.num_read) == (1, 41)


def test_a_pickled_store_counts_from_its_own_start() -> None:
    store = Listed([*JPEGS[:3], b""], max_corrupt_share=0.5)
    store.expect(torch.arange(4))
    store.read(torch.arange(4))
    store.expect(torch.arange(2))
    copy = pickle.loads(pickle.dumps(store))
    assert copy.corrupt == CorruptImages()
    torch.testing.assert_close(copy.read(torch.arange(4))[0], store.read(torch.arange(4))[0])
    assert copy.corrupt == store.corrupt


def test_a_forked_process_reads_what_was_expected_before() -> None:
    store, index_B = Listed(JPEGS), torch.arange(40)
    store.read(index_B)
    store.expect(index_B)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=lambda: there.send_bytes(store.read(index_B)[0].numpy().tobytes()))
    child.start()
    try:
        assert here.poll(20)
        assert here.recv_bytes() == store.read(index_B)[0].numpy().tobytes()
    finally:
        child.kill()
        child.join()


def test_labelled_faces_replace_an_unreadable_image_by_another_of_its_class() -> None:
    store = Listed([JPEGS[0], b"", JPEGS[2], JPEGS[3], TRUNCATED], max_corrupt_share=0.5)
    faces = LabelledFaces(
        images=store,
        label_N=torch.tensor([0, 0, 0, 1, 1]),
        group_N=torch.zeros(5, dtype=torch.long),
        authentic_N=torch.ones(5, dtype=torch.bool),
        group_names=(),
    )
    images, index_B = faces.read(torch.tensor([4, 1, 0]))
    assert index_B.tolist() == [3, 2, 0]
    torch.testing.assert_close(images, torch.stack([by_pillow(JPEGS[i]) for i in (3, 2, 0)]))
    assert store.corrupt.count == 2
