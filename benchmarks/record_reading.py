"""What reading a pack costs beside decoding: shuffled batches, against Pillow with as many threads.

The pack holds faces of the embedded world as JPEGs of 112 px. Plain decoding finds the same files in memory
and throws the pixels away; reading finds them in the pack and makes batches of them, one ahead. Both take
turns, in the same shuffled order. On a machine that others use, look at processor time.

Run: python -m benchmarks.record_reading
"""

import io
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from distill.faces import EmbeddedFacesSettings
from distill.faces.store import ImageStore
from distill.faces.stored import SourceSettings, open_source
from distill.faces.stored.records import MAGIC

SIZE_PX = 112
NUM_CLASSES, IMAGES_PER_CLASS = 300, 10
JPEG_QUALITY = 95
BATCH_SIZE = 128
NUM_THREADS = 2
TURNS, IMAGES_PER_TURN = 40, 1024
WANTED_RATIO = 0.8


def draw_jpegs() -> tuple[list[bytes], list[int]]:
    """Files and classes."""
    faces = EmbeddedFacesSettings(size_px=SIZE_PX, domain="authentic").labelled(
        num_classes=NUM_CLASSES, images_per_class=IMAGES_PER_CLASS
    )
    images, _ = faces.read(torch.arange(len(faces)))
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=JPEG_QUALITY)
        files.append(file.getvalue())
    return files, faces.label_N.tolist()


def write_pack(path: Path, jpegs: list[bytes], labels: list[int]) -> None:
    """A pack without header, whose images hold no magic number at a multiple of 4 (one in millions does)."""
    lines = []
    with path.open("wb") as file:
        for key, (jpeg, label) in enumerate(zip(jpegs, labels, strict=True)):
            payload = struct.pack("<IfQQ", 0, label, key, 0) + jpeg
            lines.append(f"{key}\t{file.tell()}\n")
            file.write(struct.pack("<II", MAGIC, len(payload)) + payload + bytes(-len(payload) % 4))
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


def rates(call: Callable[[], object]) -> tuple[float, float]:
    """Images of a turn that were read in a second, and in a second of processor time of all threads."""
    start, start_busy = time.perf_counter(), time.process_time()
    call()
    return IMAGES_PER_TURN / (time.perf_counter() - start), IMAGES_PER_TURN / (
        time.process_time() - start_busy
    )


def main() -> None:
    torch.set_num_threads(NUM_THREADS)
    torch.manual_seed(0)
    jpegs, labels = draw_jpegs()
    turns = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(NUM_THREADS) as pool:
        path = Path(folder) / "train.rec"
        write_pack(path, jpegs, labels)
        store = open_source(SourceSettings(path=path), size_px=SIZE_PX).images
        if not isinstance(store, ImageStore):
            raise AssertionError("a pack must be read from disk")
        for turn in range(TURNS + 1):
            order_N = torch.randperm(len(jpegs))[:IMAGES_PER_TURN]
            shares = [[jpegs[index] for index in share.tolist()] for share in order_N.chunk(NUM_THREADS)]
            ours = rates(lambda order_N=order_N: read_all(store, order_N))
            plain = rates(lambda shares=shares: list(pool.map(decode_plainly, shares)))
            if turn:  # the first warms both up
                turns.append((ours, plain))
    mean_bytes = sum(map(len, jpegs)) / len(jpegs)
    print(
        f"{len(jpegs):,} JPEGs of {SIZE_PX} px, {mean_bytes:,.0f} bytes each, {NUM_THREADS} threads; {TURNS} "
        f"turns of {IMAGES_PER_TURN:,} images in batches of {BATCH_SIZE}"
    )
    for kind, name in enumerate(("second", "second of processor time")):
        ours, plain = (statistics.median(rate[side][kind] for rate in turns) for side in range(2))
        ratios = [reading[kind] / decoding[kind] for reading, decoding in turns]
        lower, median, upper = statistics.quantiles(ratios, n=4)
        print(
            f"images per {name}: reading {ours:,.0f}, plain decoding {plain:,.0f} (medians); "
            f"ratio {median:.2f}, quartiles {lower:.2f} to {upper:.2f} (at least {WANTED_RATIO} wanted)"
        )


if __name__ == "__main__":
    main()
