"""The file of a teacher's embeddings: right to the byte, whole or not there, built once by all together."""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distill import embedding_cache
from distill.embedding_cache import (
    CARD,
    EMBEDDINGS,
    PART_IMAGES,
    CacheDtype,
    CacheIdentity,
    EmbeddingCache,
    embed_images,
)
from distill.errors import InputError
from distill.faces import LabelledFaces
from distill.faces.store import ImageStore
from distill.teachers import EmbeddedTeacherSettings

NUM_IMAGES, WIDTH = 2 * PART_IMAGES + 100, 8
NUM_PARTS = 3


@pytest.fixture(autouse=True)
def as_if_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets which caches other tests have verified."""
    monkeypatch.setattr(embedding_cache, "_opened", {})


def cache_in(directory: Path, *, dtype: CacheDtype = "float32", faces: str = "f") -> EmbeddingCache:
    identity = CacheIdentity(
        faces=faces, teacher="t", size_px=32, num_images=NUM_IMAGES, width=WIDTH, dtype=dtype
    )
    return EmbeddingCache(directory=directory, identity=identity)


def expected() -> Tensor:
    """What the made-up teacher says: numbers that float32 holds and float16 does not."""
    return torch.randn(2, NUM_IMAGES, WIDTH, generator=torch.Generator().manual_seed(0))


class Embedder:
    """Says what is expected of images, and remembers how often it was asked for each part."""

    def __init__(self, embedding_2ND: Tensor | None = None):
        self._embedding_2ND = expected() if embedding_2ND is None else embedding_2ND
        self.parts: list[int] = []

    def __call__(self, images: range) -> Tensor:
        self.parts.append(images.start // PART_IMAGES)
        return self._embedding_2ND[:, images.start : images.stop]


def reopened(cache: EmbeddingCache, embed: Callable[[range], Tensor]) -> Tensor:
    """Loads a cache as another process would."""
    embedding_cache._opened.clear()
    return cache.load(embed)


def test_the_file_holds_the_embeddings_byte_by_byte(tmp_path: Path) -> None:
    cache, embed = cache_in(tmp_path), Embedder()
    assert torch.equal(cache.load(embed), expected())
    assert (cache.path / EMBEDDINGS).read_bytes() == expected().numpy().tobytes()
    assert embed.parts == [0, 1, 2]
    assert sorted(path.name for path in cache.path.iterdir()) == [CARD, EMBEDDINGS]


def test_what_was_built_is_found_and_mapped_without_the_teacher(tmp_path: Path) -> None:
    cache_in(tmp_path).load(Embedder())
    embed = Embedder()
    found = reopened(cache_in(tmp_path), embed)
    assert torch.equal(found, expected())
    assert embed.parts == []
    file = (cache_in(tmp_path).path / EMBEDDINGS).stat()
    maps = Path("/proc/self/maps").read_text()
    assert any(str(file.st_ino) == line.split()[4] and "r--s" in line for line in maps.splitlines())


def test_another_set_teacher_size_or_dtype_has_a_cache_of_its_own() -> None:
    same = {"faces": "f", "teacher": "t", "size_px": 32, "num_images": 4, "width": 2, "dtype": "float32"}
    others = [{"faces": "g"}, {"teacher": "u"}, {"size_px": 16}, {"dtype": "float16"}, {"format": 2}]
    keys = {CacheIdentity.model_validate(same | other).key for other in [{}, *others]}
    assert len(keys) == 1 + len(others)
    assert CacheIdentity.model_validate(same).key in keys


def test_half_precision_takes_half_the_room_and_keeps_three_digits(tmp_path: Path) -> None:
    whole, half = cache_in(tmp_path), cache_in(tmp_path, dtype="float16")
    found = half.load(Embedder())
    assert found.dtype == torch.float16
    assert half.num_bytes == (half.path / EMBEDDINGS).stat().st_size == whole.num_bytes // 2
    torch.testing.assert_close(found.float(), expected(), rtol=2**-11, atol=2**-24)


def test_half_precision_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    large = expected()
    large[1, 5000, 3] = -7e4
    with pytest.raises(InputError, match=r"must be float32 for this teacher, whose embeddings reach 7e\+04"):
        cache_in(tmp_path, dtype="float16").load(Embedder(large))


def test_rows_of_nan_come_back_as_such(tmp_path: Path) -> None:
    holed = expected()
    holed[:, [3, 5000]] = torch.nan
    for dtype in ("float32", "float16"):
        found = cache_in(tmp_path, dtype=dtype).load(Embedder(holed))
        assert found.isnan().any(2).nonzero().tolist() == [[0, 3], [0, 5000], [1, 3], [1, 5000]]


BUILDER = """
import os, sys, time
from pathlib import Path
from tests.distill.test_embedding_cache import Embedder, cache_in

folder, num_builders, stays_in = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
embedder = Embedder()

def embed(images):
    part = images.start // 4096
    for name in (f"builder {os.getpid()}", f"part {part}"):
        (folder / name).touch()
    while len(list(folder.glob("builder *"))) < num_builders or part == stays_in:
        time.sleep(0.02)
    return embedder(images)

cache_in(folder / "caches").load(embed)
print(*embedder.parts)
"""


def start_builder(folder: Path, *, num_builders: int = 1, stays_in: int = -1) -> subprocess.Popen[str]:
    """A process that builds; its first part ends when `num_builders` are at it, and part `stays_in` never."""
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(folder), str(num_builders), str(stays_in)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_what_a_killed_builder_had_finished_is_not_done_again(tmp_path: Path) -> None:
    builder = start_builder(tmp_path, stays_in=1)
    cache = cache_in(tmp_path / "caches")
    while not (tmp_path / "part 1").exists():
        assert builder.poll() is None
        time.sleep(0.05)
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert not cache.path.exists()
    assert cache.num_parts_done() == 1
    embed = Embedder()
    assert torch.equal(cache.load(embed), expected())
    assert embed.parts == [1, 2]
    assert [path.suffix for path in cache.directory.iterdir() if path != cache.path] == [".lock"]


def test_two_processes_share_the_parts(tmp_path: Path) -> None:
    builders = [start_builder(tmp_path, num_builders=2) for _ in range(2)]
    parts = [[int(part) for part in builder.communicate()[0].split()] for builder in builders]
    assert sorted(parts[0] + parts[1]) == [0, 1, 2]
    assert all(parts)
    embed = Embedder()
    assert torch.equal(cache_in(tmp_path / "caches").load(embed), expected())
    assert embed.parts == []


def flip_a_byte(cache: EmbeddingCache) -> None:
    with (cache.path / EMBEDDINGS).open("r+b") as file:
        file.seek(cache.num_bytes - 5)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def truncate(cache: EmbeddingCache) -> None:
    os.truncate(cache.path / EMBEDDINGS, cache.num_bytes - 1)


def change_card(**fields: object) -> Callable[[EmbeddingCache], None]:
    def change(cache: EmbeddingCache) -> None:
        card = json.loads((cache.path / CARD).read_text())
        (cache.path / CARD).write_text(json.dumps(card | fields))

    return change


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "the checksum of part 2 is another"),
        (truncate, f"{EMBEDDINGS} has 530,687 bytes instead of 530,688"),
        (change_card(teacher="u"), f"{CARD} is of another cache"),
        (change_card(part_sha256=["0" * 64]), f"{CARD} lists 1 of 3 parts"),
        (lambda cache: (cache.path / CARD).write_text("{"), "1 validation error"),
        (lambda cache: (cache.path / CARD).unlink(), "No such file or directory"),
        (lambda cache: (cache.path / EMBEDDINGS).unlink(), "No such file or directory"),
    ],
)
def test_a_damaged_cache_is_moved_aside_and_built_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[EmbeddingCache], None], reason: str
) -> None:
    cache, embed = cache_in(tmp_path), Embedder()
    cache.load(Embedder())
    damage(cache)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(reopened(cache, embed), expected())
    assert embed.parts == [0, 1, 2]
    assert f"{cache.path} is damaged" in caplog.text
    assert reason in caplog.text
    assert cache.path.with_suffix(".damaged").is_dir()
    assert torch.equal(reopened(cache, Embedder()), expected())


def test_a_part_that_changed_while_others_were_built_is_done_again(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)

    class StoppedError(Exception):
        pass

    def stop(images: range) -> Tensor:
        if images.start:
            raise StoppedError
        return expected()[:, images.start : images.stop]

    with pytest.raises(StoppedError):
        cache.load(stop)
    with (tmp_path / f"{cache.identity.key}.partial" / EMBEDDINGS).open("r+b") as file:
        file.write(b"\x00\x01\x02\x03")
    embed = Embedder()
    assert torch.equal(cache.load(embed), expected())
    assert embed.parts == [1, 2, 0]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_cache_that_finds_no_room_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    cache, embed = cache_in(tmp_path), Embedder()
    with files_of_at_most(100_000), pytest.raises(InputError) as caught:
        cache.load(embed)
    assert str(caught.value) == (
        f"the embedding cache {tmp_path} must be a folder with room for another 1 MB: File too large"
    )
    assert embed.parts == []
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_cache_where_no_folder_can_be_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="must be a folder with room for another 1 MB: "):
        cache_in(tmp_path / "file" / "caches").load(Embedder())


def test_errors_of_the_faces_are_not_taken_for_the_caches(tmp_path: Path) -> None:
    def embed(images: range) -> Tensor:
        raise PermissionError("the faces are locked away")

    with pytest.raises(PermissionError, match="locked away"):
        cache_in(tmp_path).load(embed)


class HoledStore(ImageStore):
    """Six random images, of which two cannot be read."""

    digest = "holed"
    unreadable = (1, 4)

    def __len__(self) -> int:
        return 6

    def read(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(0)
        images = torch.randint(256, (len(self), 3, 32, 32), generator=rng, dtype=torch.uint8)
        readable_B = ~torch.isin(index_B, torch.tensor(self.unreadable))
        return images[index_B] * readable_B[:, None, None, None], readable_B


def test_images_are_embedded_as_they_are_and_mirrored_and_unreadable_ones_are_nan() -> None:
    faces = LabelledFaces(
        images=HoledStore(),
        label_N=torch.tensor([0, 0, 0, 1, 1, 1]),
        group_N=torch.zeros(6, dtype=torch.long),
        authentic_N=torch.ones(6, dtype=torch.bool),
        group_names=("all",),
    )
    teacher = EmbeddedTeacherSettings().load()
    found = embed_images(range(2, 6), faces=faces, teacher=teacher, device=torch.device("cpu"))
    assert found.shape == (2, 4, 128)
    assert found.isnan().all(2).tolist() == [[False, False, True, False]] * 2
    images, _ = HoledStore().read(torch.arange(6))
    for row, image in ((0, 2), (1, 3), (3, 5)):
        pixels = torch.from_numpy(images[image].numpy().astype(np.float32) / 127.5 - 1)[None]
        torch.testing.assert_close(found[0, row], teacher(pixels)[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[1, row], teacher(pixels.flip(-1))[0], rtol=1e-4, atol=1e-4)
