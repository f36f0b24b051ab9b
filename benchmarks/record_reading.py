"""What reading a pack costs beside decoding: shuffled batches, against Pillow with as many threads.

The pack holds faces of the embedded world as JPEGs of 112 px. Plain decoding finds the same files in memory
and throws the pixels away; reading finds them in the pack and makes batches of them, one ahead. Both take
turns, in the same shuffled orders.
"""

import io
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from benchmarks.row import Goal, Row, in_turns, seconds
from distill.faces import EmbeddedFacesSettings
from distill.faces.store import ImageStore
from distill.faces.stored import SourceSettings, open_source
from distill.faces.stored.records import MAGIC

SIZE_PX = 112
NUM_CLASSES, IMAGES_PER_CLASS = 150, 10
JPEG_QUALITY = 95
BATCH_SIZE = 128
NUM_THREADS = 2
IMAGES_PER_TURN = 1024


def draw_jpegs(*, num_classes: int) -> tuple[list[bytes], list[int]]:
    """Files and classes."""
    faces = EmbeddedFacesSettings(size_px=SIZE_PX, domain="authentic").labelled(
        num_classes=num_classes, images_per_class=IMAGES_PER_CLASS
    )
    images, _ = faces.read(torch.arange(len(faces)))
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=JPEG_QUALITY)
        files.append(file.getvalue())
    return files, faces.label_N.tolist()


def framed(payload: bytes) -> bytes:
    """A record of one part."""
    return struct.pack("<II", MAGIC, len(payload)) + payload + bytes(-len(payload) % 4)


def write_pack(path: Path, jpegs: list[bytes], labels: list[int]) -> None:
    """A pack without header, whose images hold no magic number at a multiple of 4 (one in millions does)."""
    lines = []
    with path.open("wb") as file:
        for key, (jpeg, label) in enumerate(zip(jpegs, labels, strict=True)):
            payload = struct.pack("<IfQQ", 0, label, key, 0) + jpeg
            lines.append(f"{key}\t{file.tell()}\n")
            file.write(framed(payload))
    path.with_suffix(".idx").write_text("".join(lines))


def read_all(store: ImageStore, order_N: torch.Tensor) -> None:
    batches = order_N.split(BATCH_SIZE)
    for index_B, next_B in zip(batches, (*batches[1:], None), strict=True):
        if next_B is not None:
            store.expect(next_B)
        _, readable_B = store.read(index_B)
        if not readable_B.all():
            raise AssertionError("an image cannot be read")


def decode_plainly(jpegs: list[bytes]) -> None:
    for jpeg in jpegs:
        Image.open(io.BytesIO(jpeg)).convert("RGB")


def measure(quick: bool) -> list[Row]:
    """As many threads on both sides."""
    torch.set_num_threads(NUM_THREADS)
    torch.manual_seed(0)
    jpegs, labels = draw_jpegs(num_classes=15 if quick else NUM_CLASSES)
    repetitions, num_read = (1, len(jpegs)) if quick else (25, IMAGES_PER_TURN)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(NUM_THREADS) as pool:
        path = Path(folder) / "train.rec"
        write_pack(path, jpegs, labels)
        store = open_source(SourceSettings(path=path), size_px=SIZE_PX).images
        if not isinstance(store, ImageStore):
            raise AssertionError("a pack must be read from disk")
        orders = [torch.randperm(len(jpegs))[:num_read] for _ in range(repetitions + 1)]
        for_reading, for_decoding = iter(orders), iter(orders)

        def read() -> float:
            order_N = next(for_reading)
            return num_read / seconds(lambda: read_all(store, order_N))

        def decode() -> float:
            shares = [
                [jpegs[index] for index in part.tolist()] for part in next(for_decoding).chunk(NUM_THREADS)
            ]
            return num_read / seconds(lambda: list(pool.map(decode_plainly, shares)))

        in_turns(read, decode, repetitions=1)  # to warm up
        ours, plain = in_turns(read, decode, repetitions=repetitions)
    mean_bytes = sum(map(len, jpegs)) // len(jpegs)
    return [
        Row(
            name="record_reading",
            what=f"shuffled batches of a .rec pack ({SIZE_PX} px)",
            unit="images a second",
            ours=ours,
            other=plain,
            against="plain decoding from memory",
            goal=Goal(side="at least", bound=0.8),
            note=f"{NUM_THREADS} threads; {len(jpegs):,} JPEGs of {mean_bytes:,} bytes each, in batches of "
            f"{BATCH_SIZE}",
        )
    ]
