"""Decoding: pixels, sizes, and images that are not what they say."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.errors import InputError
from distill.faces.packs.images import MAX_PIXELS, decode_all
from tests.distill.faces.packs.pictures import encoded, picture


def pixels(image: Image.Image) -> np.ndarray:
    return np.array(image.convert("RGB")).transpose(2, 0, 1)


def blank_png(width: int, height: int) -> bytes:
    """The head of a PNG of any size; a decoder that allocates by it has lost."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "BMP", "JPEG", "WEBP"])
def test_an_image_of_the_size_is_taken_pixel_by_pixel(format: str) -> None:
    content = encoded(picture(0), format)
    images = decode_all([(content, "it")], size_px=12)
    with Image.open(BytesIO(content)) as image:
        np.testing.assert_array_equal(images[0].numpy(), pixels(image))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_image_becomes_rgb(mode: str) -> None:
    image = picture(0).convert(mode)
    images = decode_all([(encoded(image, "JPEG" if mode == "CMYK" else "PNG"), "it")], size_px=12)
    # JPEG loses a little; what is compared is that colours are where they were.
    difference = images[0].numpy().astype(int) - pixels(image)
    assert np.abs(difference).mean() < (8 if mode == "CMYK" else 1e-9)


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (40, 40)])
@pytest.mark.parametrize("size_px", [16, 40, 80])
def test_the_short_side_is_resized_and_the_middle_is_kept(size: tuple[int, int], size_px: int) -> None:
    image = picture(1, size=size)
    images = decode_all([(encoded(image), "it")], size_px=size_px)
    width, height = (side * size_px // 40 for side in size)
    left, top = (width - size_px) // 2, (height - size_px) // 2
    whole = image.resize((width, height), Image.Resampling.BILINEAR)
    middle = whole.crop((left, top, left + size_px, top + size_px))
    np.testing.assert_allclose(images[0].numpy().astype(int), pixels(middle), atol=1)


def test_reducing_averages_what_it_leaves_out() -> None:
    board = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    images = decode_all([(encoded(board), "it")], size_px=16)
    assert 120 < int(images.min()) <= int(images.max()) < 135


def test_many_images_keep_their_order() -> None:
    images = decode_all([(encoded(picture(seed)), str(seed)) for seed in range(100)], size_px=12)
    for seed in range(100):
        np.testing.assert_array_equal(images[seed].numpy(), pixels(picture(seed)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "image 1 cannot be decoded: it is none of JPEG, PNG, BMP, WEBP"),
        (b"hello", "image 1 cannot be decoded: it is none of JPEG, PNG, BMP, WEBP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image 1 cannot be decoded: it is none of"),
        (encoded(picture(0), "GIF"), "image 1 cannot be decoded: it is none of"),
        (
            encoded(picture(0, size=(64, 64)), "JPEG")[:-200],
            r"image 1 cannot be decoded \(image file is trunc",
        ),
        (encoded(picture(0))[:-30], r"image 1 cannot be decoded \("),
        (blank_png(5000, 5000), f"image 1 has 5000 x 5000 pixels, at most {MAX_PIXELS:,}"),
        (blank_png(2**30, 2**30), r"image 1 cannot be decoded \(Image size .* exceeds"),
    ],
)
def test_an_image_that_cannot_be_decoded_is_named(content: bytes, reason: str) -> None:
    good = encoded(picture(0))
    with pytest.raises(InputError, match=reason) as error:
        decode_all([(good, "image 0"), (content, "image 1"), (good, "image 2")], size_px=12)
    assert "\n" not in str(error.value)


def test_a_thin_image_is_not_blown_up() -> None:
    images = decode_all([(encoded(Image.new("RGB", (1, 100_000), "red")), "it")], size_px=112)
    assert images[0, :, 50, 50].tolist() == [255, 0, 0]


def test_an_image_in_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    path.write_bytes(encoded(picture(3)))
    np.testing.assert_array_equal(decode_all([(path, "it")], size_px=12)[0].numpy(), pixels(picture(3)))
    with pytest.raises(InputError, match=r"face 7 cannot be decoded \(.*No such file"):
        decode_all([(tmp_path / "none.png", "face 7")], size_px=12)
