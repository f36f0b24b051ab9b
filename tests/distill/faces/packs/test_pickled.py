"""Verification packs: every dialect, and what a stranger may have put into one."""

import codecs
import math
import os
import pickle
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distill.errors import InputError
from distill.evaluation import evaluate_verification
from distill.faces.packs import PairsSettings, pickled
from distill.faces.packs.pickled import read_pack
from distill.teachers import EmbeddedTeacherSettings
from distill.unpickling import ForbiddenGlobalError
from tests.distill.faces.packs.pictures import (
    SMALL_LFW,
    encoded,
    picture,
    python_2_array_pack,
    python_2_pack,
)

IMAGES = [encoded(picture(seed), "JPEG" if seed % 2 else "PNG") for seed in range(24)]
ANSWERS = [True, False, True] * 4

# NumPy hides them, so they are had from what pickles of it call.
RECONSTRUCT = np.zeros(1).__reduce__()[0]
SCALAR = np.True_.__reduce__()[0]
FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]


def arrays(*shape: int) -> list[np.ndarray]:
    return [np.frombuffer(image, np.uint8).reshape(shape) for image in IMAGES]


IMAGE_DIALECTS: dict[str, Any] = {
    "bytes": IMAGES,
    "tuple": tuple(IMAGES),
    "column arrays": arrays(-1, 1),
    "flat arrays": arrays(-1),
    "strided arrays": [np.repeat(array, 2)[::2] for array in arrays(-1)],
    "writable arrays": [array.copy() for array in arrays(-1, 1)],
}
ANSWER_DIALECTS: dict[str, Any] = {
    "bools": ANSWERS,
    "integers": [int(answer) for answer in ANSWERS],
    "numpy bools": [np.bool_(answer) for answer in ANSWERS],
    "array of bools": np.array(ANSWERS),
    "array of integers": np.array(ANSWERS).astype(int),
    "big-endian array": np.array(ANSWERS).astype(">i4"),
    "column of bytes": np.array(ANSWERS).astype(np.uint8)[:, None],
}


class Attack:
    """Calls something when it is unpickled as pickles usually are."""

    def __init__(self, call: object, *arguments: object):
        self._reduced = (call, arguments)

    def __reduce__(self) -> tuple[object, ...]:
        return self._reduced


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "pack.bin"
        path.write_bytes(content)
        return path

    return write


def assert_holds_the_pairs(path: Path) -> None:
    pairs = read_pack(path)
    assert [side.source for pair in pairs for side in (pair.left, pair.right)] == IMAGES
    assert [pair.is_genuine for pair in pairs] == ANSWERS


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_pack(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dialect", IMAGE_DIALECTS)
def test_images_are_read_in_every_dialect(
    dialect: str, protocol: int, write: Callable[[bytes], Path]
) -> None:
    assert_holds_the_pairs(write(pickle.dumps((IMAGE_DIALECTS[dialect], ANSWERS), protocol)))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dialect", ANSWER_DIALECTS)
def test_answers_are_read_in_every_dialect(
    dialect: str, protocol: int, write: Callable[[bytes], Path]
) -> None:
    assert_holds_the_pairs(write(pickle.dumps([IMAGES, ANSWER_DIALECTS[dialect]], protocol)))


@pytest.mark.parametrize("protocol", [3, 5])
def test_numpy_1_names_its_functions_otherwise(protocol: int, write: Callable[[bytes], Path]) -> None:
    content = pickle.dumps((arrays(-1, 1), np.array(ANSWERS)), protocol)
    if protocol == 3:
        content = content.replace(b"numpy._core.", b"numpy.core.")
    else:  # names are preceded by their length
        content = content.replace(b"\x13numpy._core.numeric", b"\x12numpy.core.numeric")
        head = struct.unpack("<Q", content[3:11])[0]
        content = content[:3] + struct.pack("<Q", head - 1) + content[11:]
    assert b"numpy.core." in content
    assert b"numpy._core." not in content
    assert_holds_the_pairs(write(content))


@pytest.mark.parametrize("protocol", [0, 2])
def test_text_of_python_2_is_read_as_bytes(protocol: int, write: Callable[[bytes], Path]) -> None:
    content = python_2_pack(IMAGES, ANSWERS, protocol=protocol)
    assert pickle.loads(content, encoding="bytes") == (IMAGES, ANSWERS)
    assert_holds_the_pairs(write(content))


def test_arrays_of_python_2_are_read(write: Callable[[bytes], Path]) -> None:
    assert_holds_the_pairs(write(python_2_array_pack(IMAGES, ANSWERS)))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_command_between_the_images_is_named_and_not_run(
    protocol: int, tmp_path: Path, write: Callable[[bytes], Path]
) -> None:
    trace = tmp_path / "trace"
    images = [*IMAGES[:-1], Attack(os.system, f"touch {trace}")]
    path = write(pickle.dumps((images, ANSWERS), protocol))
    with pytest.raises(ForbiddenGlobalError, match=r"it asks for (posix|nt)\.system"):
        read_pack(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("item", "named"),
    [
        (Attack(getattr, "text", "upper"), r"builtins\.getattr"),
        (Attack(eval, "1"), r"builtins\.eval"),
        (Attack(bytearray, 10**12), r"builtins\.bytearray"),
        (Attack(np.zeros, 10**12), r"numpy\.zeros"),
        (Attack(np.load, "other.npy"), r"numpy\.load"),
        (Path("somewhere"), r"pathlib\.PosixPath"),
        (torch.zeros(2), r"torch\._utils\._rebuild_tensor_v2"),
    ],
)
def test_what_no_pack_needs_is_refused_and_named(
    item: object, named: str, write: Callable[[bytes], Path]
) -> None:
    path = write(pickle.dumps(([item], ANSWERS)))
    with pytest.raises(ForbiddenGlobalError, match=f"asks for {named}"):
        read_pack(path)


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (np.array([b"a", None], dtype=object), "dtype O8"),
        (np.array([1.0]), "dtype f8"),
        (np.array(["text"]), "dtype U4"),
        (np.array([(1, 2)], dtype="u1,u1"), "dtype V2"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "dtype M8"),
        (Attack(RECONSTRUCT, np.ndarray, (10**12,), b"b"), r"shape \(1000000000000,\)"),
        (Attack(RECONSTRUCT, bytes, (0,), b"b"), "no readable pickle|asks for"),
        (Attack(np.ndarray, (10**12,)), "no readable pickle"),
        (Attack(np.dtype, "O", False, True), "dtype O"),
        (Attack(FROM_BUFFER, b"12", np.dtype("u1"), (10**12,), "C"), "reshape"),
        (Attack(FROM_BUFFER, "12", np.dtype("u1"), (2,), "C"), "plain numbers"),
        (Attack(SCALAR, np.dtype("u1"), b"12"), "reshape"),
        (Attack(codecs.encode, "bomb", "zip"), "encodes by zip"),
        (Attack(codecs.encode, "bomb", "rot13"), "encodes by rot13"),
        (Attack(codecs.encode, 10**12, "latin1"), "encodes by latin1"),
    ],
)
def test_what_a_pack_needs_is_refused_another_use(
    item: object, reason: str, protocol: int, write: Callable[[bytes], Path]
) -> None:
    path = write(pickle.dumps(([item], ANSWERS), protocol))
    with pytest.raises(InputError, match=reason) as error:
        read_pack(path)
    assert str(path) in str(error.value)


def test_a_pickle_sets_no_attribute_of_the_stand_ins(write: Callable[[bytes], Path]) -> None:
    state = b"(N}X\x09\x00\x00\x00_functionNst"
    for name in (b"_codecs\nencode", b"numpy\ndtype", b"numpy\nndarray"):
        refused(write(b"\x80\x03c" + name + b"\n" + state + b"b."))
    assert_holds_the_pairs(write(pickle.dumps((arrays(-1), ANSWERS), 2)))


def test_an_array_without_numbers_is_no_image(write: Callable[[bytes], Path]) -> None:
    empty = Attack(RECONSTRUCT, np.ndarray, (0,), b"b")
    path = write(pickle.dumps(([*IMAGES[:-1], empty], ANSWERS)))
    with pytest.raises(InputError, match=r"image 23 of .*pack\.bin cannot be decoded"):
        PairsSettings(path=path).load(name="benchmark", size_px=16)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([IMAGES, ANSWERS, 3], "no pair of images and answers"),
        ({"images": IMAGES}, "no pair of images and answers"),
        ((b"".join(IMAGES), ANSWERS), "no pair of images and answers"),
        ((IMAGES[:-1], ANSWERS), "two images a pair, got 23 images and 12 pairs"),
        ((IMAGES, ANSWERS[:-1]), "two images a pair, got 24 images and 11 pairs"),
        ((IMAGES, [*ANSWERS[:-1], 2]), "by a bool, 0 or 1"),
        ((IMAGES, [*ANSWERS[:-1], 1.0]), "by a bool, 0 or 1"),
        ((IMAGES, "110"), "by a bool, 0 or 1"),
        ((IMAGES, np.arange(12)), "by a bool, 0 or 1"),
        (([*IMAGES[:-1], "text"], ANSWERS), "image 23 of .* is no encoded image"),
        (([*IMAGES[:-1], np.zeros((4, 4, 3), np.uint8)], ANSWERS), "image 23 of .* is no encoded image"),
        (([*IMAGES[:-1], np.zeros(4, np.int64)], ANSWERS), "image 23 of .* is no encoded image"),
    ],
)
def test_another_content_is_told(content: object, reason: str, write: Callable[[bytes], Path]) -> None:
    path = write(pickle.dumps(content))
    with pytest.raises(InputError, match=reason):
        read_pack(path)


@pytest.mark.parametrize("kept", [2, 100, -1])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_truncated_pack_is_told_in_one_sentence(
    kept: int, protocol: int, write: Callable[[bytes], Path]
) -> None:
    assert "cut short" in refused(write(pickle.dumps((IMAGES, ANSWERS), protocol)[:kept]))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (struct.pack("<II", 0xCED7230A, 24) + bytes(24), "a RecordIO pack"),
        (b"PK\x03\x04rest", "a ZIP archive"),
        (IMAGES[1], "a JPEG"),
        (IMAGES[0], "a PNG"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (bytes(257) + b"ustar\x0000", "a tar archive"),
        (b"10\t300\nAaron_Peirsol\t1\t2\n", "a text file"),
        (b"\x00\x01\x02\x03\x04", "a file of no known kind that starts with 0x00010203"),
    ],
)
def test_another_kind_of_file_is_told_by_what_it_looks_like(
    content: bytes, kind: str, write: Callable[[bytes], Path]
) -> None:
    assert f"is no verification pack: it looks like {kind}" in refused(write(content))


def test_a_missing_pack_is_told(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in refused(tmp_path / "lfw.bin")


def test_an_oversized_pack_is_told_before_it_is_read(
    write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pickle.dumps((IMAGES, ANSWERS))
    monkeypatch.setattr(pickled, "MAX_PACK_BYTES", len(content))
    assert_holds_the_pairs(write(content))
    message = refused(write(content + b"x"))
    assert f"has {len(content) + 1:,} bytes, a verification pack at most {len(content):,}" in message


def test_the_sample_of_lfw_is_read() -> None:
    pairs = read_pack(SMALL_LFW)
    assert [pair.is_genuine for pair in pairs] == [True] * 10
    faces = [face for pair in pairs for face in (pair.left, pair.right)]
    assert len(faces) == 20
    assert all(isinstance(face.source, bytes) and face.source.startswith(b"\xff\xd8\xff") for face in faces)


def test_a_pack_of_one_kind_ranks_nothing() -> None:
    with pytest.raises(InputError, match=r"small_lfw\.bin must have .* has 10 genuine and 0 impostors"):
        PairsSettings(path=SMALL_LFW).facts()


def test_a_pack_of_one_kind_is_measured_as_far_as_it_goes() -> None:
    pairs = PairsSettings(path=SMALL_LFW).load(name="small_lfw", size_px=32)
    assert pairs.is_genuine_P.tolist() == [True] * 10
    metrics = evaluate_verification(EmbeddedTeacherSettings().load(), pairs, prefix="small_lfw")
    # The lowest threshold that takes nine pairs leaves out the tenth where that is the farthest.
    assert metrics["small_lfw/verification_accuracy"] == pytest.approx(0.9)
    assert math.isnan(metrics["small_lfw/eer"])
    assert math.isnan(metrics["small_lfw/auc"])


def naive_accuracy(distances: list[float], answers: list[bool]) -> float:
    """The ten-fold protocol by loops, for a multiple of ten pairs."""
    size, accuracies = len(answers) // 10, []
    for fold in range(10):
        held_out = range(fold * size, (fold + 1) * size)
        others = [pair for pair in range(len(answers)) if pair not in held_out]
        right = [
            sum((distances[pair] < step * 0.01) == answers[pair] for pair in others) for step in range(400)
        ]
        threshold = right.index(max(right)) * 0.01
        accuracies.append(sum((distances[pair] < threshold) == answers[pair] for pair in held_out) / size)
    return sum(accuracies) / 10


def test_real_faces_are_evaluated_with_the_shipped_teacher(write: Callable[[bytes], Path]) -> None:
    faces = [face.source for pair in read_pack(SMALL_LFW) for face in (pair.left, pair.right)]
    genuine = list(zip(faces[::2], faces[1::2], strict=True))
    # Nobody of pair k is on pair k + 4: people follow one another in the sample.
    impostor = [(genuine[k][0], genuine[(k + 4) % 10][1]) for k in range(10)]
    images, answers = [], []
    for same, different in zip(genuine, impostor, strict=True):
        images += [*same, *different]
        answers += [True, False]
    path = write(pickle.dumps((images, answers), protocol=3))
    settings = PairsSettings(path=path)

    pairs = settings.load(name="benchmark", size_px=112)
    assert pairs.images_NCHW.shape == (17, 3, 112, 112)  # three of the 20 come twice
    assert pairs.identity_N is None
    assert settings.facts().num_impostors == 10
    teacher = EmbeddedTeacherSettings().load()
    metrics = evaluate_verification(teacher, pairs, prefix="benchmark")
    assert np.isfinite(list(metrics.values())).all()

    units = {}
    for content in {*images}:
        with Image.open(BytesIO(content)) as image, torch.no_grad():
            face = torch.from_numpy((np.array(image, np.float32) - 127.5) / 127.5).permute(2, 0, 1)[None]
            raw = (teacher(face) + teacher(face.flip(3)))[0].double()
        units[content] = raw / raw.norm()
    distances = [
        float((units[left] - units[right]).square().sum())
        for left, right in zip(images[::2], images[1::2], strict=True)
    ]
    assert metrics["benchmark/verification_accuracy"] == pytest.approx(naive_accuracy(distances, answers))
