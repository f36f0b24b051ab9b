"""Whether a `.rec` pack of 50 GB begins at once and is read in no more memory as it goes on.

The pack is a sparse file as InsightFace lays them out: a header, millions of images, the identities' records.
Only the images that are read are there. Each repetition is a process of its own, which opens the pack and
reads shuffled batches; what the system keeps of the pack in memory is dropped before.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import torch
from pyarrow import csv

from benchmarks.record_reading import BATCH_SIZE, SIZE_PX, draw_jpegs, framed
from benchmarks.row import Goal, Row
from distill.faces.store import ImageStore
from distill.faces.stored import SourceSettings, open_source

NUM_BYTES = 50 * 10**9
IMAGES_PER_IDENTITY = 64
NUM_THREADS = 2


def measure(quick: bool) -> list[Row]:
    """Two threads."""
    num_identities, num_batches, repetitions = (1_000, 4, 1) if quick else (80_000, 40, 5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.rec"
        write_pack(path, num_identities=num_identities, num_batches=num_batches)
        looks = [_look_in_a_new_process(path, num_batches) for _ in range(repetitions)]
    num_images = num_identities * IMAGES_PER_IDENTITY
    return [
        Row(
            name="large_pack",
            what=f"a .rec pack of {NUM_BYTES / 1e9:.0f} GB: from opening it to its first batch",
            unit="s",
            ours=[first_s for first_s, _, _ in looks],
            goal=Goal(side="at most", bound=5),
            note=f"{num_images:,} images of {num_identities:,} identities, {BATCH_SIZE} a batch, nothing of "
            f"it in the system's memory; {NUM_THREADS} threads; imports are left out",
        ),
        Row(
            name="large_pack_memory",
            what=f"resident memory after {num_batches} shuffled batches of that pack",
            unit="MB",
            ours=[last for _, _, last in looks],
            other=[first for _, first, _ in looks],
            against="after the first batch",
            goal=Goal(side="at most", bound=1.05),
            note="of the whole process",
        ),
    ]


def write_pack(path: Path, *, num_identities: int, num_batches: int) -> None:
    """Writes the records that are read, the identities', the header and the index; the rest stays empty."""
    num_images = num_identities * IMAGES_PER_IDENTITY
    jpegs, _ = draw_jpegs(num_classes=20)
    key_K = np.arange(num_images + num_identities + 1)
    header = _record(b"", num_images + 1, num_images + 1 + num_identities)
    offset_K = np.zeros_like(key_K)
    room = (NUM_BYTES - len(header)) // num_images // 4 * 4
    offset_K[1 : num_images + 1] = len(header) + np.arange(num_images) * room
    with path.open("wb") as file:
        file.write(header)
        for place, index in enumerate(_indices(num_images, num_batches).tolist()):
            file.seek(int(offset_K[index + 1]))
            file.write(_record(jpegs[place % len(jpegs)]))
        file.seek(NUM_BYTES)
        for identity in range(num_identities):
            offset_K[num_images + 1 + identity] = file.tell()
            first = 1 + identity * IMAGES_PER_IDENTITY
            file.write(_record(b"", first, first + IMAGES_PER_IDENTITY))
        os.fsync(file.fileno())
    table = pa.table({"key": key_K, "offset": offset_K})
    csv.write_csv(table, path.with_suffix(".idx"), csv.WriteOptions(include_header=False, delimiter="\t"))


def _record(image: bytes, *labels: float) -> bytes:
    """A record of an image, or of two labels alone."""
    payload = struct.pack("<IfQQ", len(labels), 0.0, 0, 0) + struct.pack(f"<{len(labels)}f", *labels) + image
    return framed(payload)


def _indices(num_images: int, num_batches: int) -> torch.Tensor:
    """Which images are read."""
    return torch.randint(num_images, (num_batches * BATCH_SIZE,), generator=torch.Generator().manual_seed(0))


def _look_in_a_new_process(path: Path, num_batches: int) -> tuple[float, float, float]:
    for file in (path, path.with_suffix(".idx")):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    command = [sys.executable, "-m", "benchmarks.large_pack", str(path), str(num_batches)]
    return tuple(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def look(path: Path, num_batches: int) -> tuple[float, float, float]:
    """Seconds to the first batch, and the resident memory after it and after the last batch, in MB."""
    torch.set_num_threads(NUM_THREADS)
    process = psutil.Process()
    began = time.perf_counter()
    store = open_source(SourceSettings(path=path), size_px=SIZE_PX).images
    if not isinstance(store, ImageStore):
        raise AssertionError("a pack must be read from disk")
    batches = _indices(len(store), num_batches).split(BATCH_SIZE)
    store.read(batches[0])
    first_s, first_mb = time.perf_counter() - began, process.memory_info().rss / 1e6
    for index_B, next_B in zip(batches[1:], (*batches[2:], None), strict=True):
        if next_B is not None:
            store.expect(next_B)
        _, readable_B = store.read(index_B)
        if not readable_B.all():
            raise AssertionError("an image cannot be read")
    return first_s, first_mb, process.memory_info().rss / 1e6


if __name__ == "__main__":
    print(json.dumps(look(Path(sys.argv[1]), int(sys.argv[2]))))
