"""Images on disk become embeddings as the network gives them, in every form, or a sentence."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor

from distill.checkpoint import load_student, save_student
from distill.cli import main
from distill.embedding import embed_files, image_files, write_embeddings
from distill.errors import InputError
from distill.students import BridgeTinySettings

SIZE_PX = 16


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    settings = BridgeTinySettings()
    folder = tmp_path_factory.mktemp("student") / "best"
    save_student(
        settings.build(embedding_dim=32, size_px=SIZE_PX),
        folder,
        student=settings,
        embedding_dim=32,
        size_px=SIZE_PX,
        epoch=1,
        metrics={},
        teacher_digest="0" * 64,
    )
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of the model's size, lossless, and one that is wider."""
    images = tmp_path / "images"
    (images / "inner").mkdir(parents=True)
    for number, path in enumerate(("b.png", "a.bmp", "inner/c.PNG")):
        Image.fromarray(pixels(number)).save(images / path)
    (images / "notes.txt").write_text("no image")
    (images / ".hidden.png").write_text("no image either")
    return images


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def expected(student: Path, *seeds: int) -> Tensor:
    """Raw embeddings, each image alone."""
    network, _ = load_student(student)
    faces = [torch.from_numpy(pixels(seed)).permute(2, 0, 1)[None].float() / 127.5 - 1 for seed in seeds]
    with torch.inference_mode():
        return torch.cat([network(face) for face in faces])


def embed(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["embed", *map(str, arguments)])


def test_images_are_found_in_order_and_nothing_else(folder: Path) -> None:
    assert image_files([folder]) == [folder / "a.bmp", folder / "b.png", folder / "inner" / "c.PNG"]
    assert image_files([folder / "notes.txt", folder / "b.png"]) == [folder / "notes.txt", folder / "b.png"]


@pytest.mark.parametrize("batch_size", [1, 2, 128])
def test_embeddings_are_the_networks_of_each_image_alone(
    student: Path, folder: Path, batch_size: int
) -> None:
    network, _ = load_student(student)
    files = image_files([folder])
    raw_ND = embed_files(network, files, size_px=SIZE_PX, raw=True, batch_size=batch_size)
    unit_ND = embed_files(network, files, size_px=SIZE_PX, batch_size=batch_size)
    torch.testing.assert_close(raw_ND, expected(student, 1, 0, 2))
    torch.testing.assert_close(unit_ND, F.normalize(expected(student, 1, 0, 2)))


def test_the_middle_of_a_wider_image_is_taken(student: Path, tmp_path: Path) -> None:
    wide = np.zeros((SIZE_PX, 3 * SIZE_PX, 3), dtype=np.uint8)
    wide[:, SIZE_PX : 2 * SIZE_PX] = pixels(5)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    network, _ = load_student(student)
    embedding_ND = embed_files(network, [tmp_path / "wide.png"], size_px=SIZE_PX, raw=True)
    torch.testing.assert_close(embedding_ND, expected(student, 5))


def test_every_form_holds_the_same_numbers(student: Path, folder: Path, tmp_path: Path) -> None:
    for suffix in ("npy", "csv", "json"):
        done = embed(folder, "--model", student, "--raw", "--out", tmp_path / f"e.{suffix}")
        assert done.exit_code == 0, done.output
        assert done.stdout == (
            f"wrote 3 embeddings of 32 numbers, as long as they came, to {tmp_path / f'e.{suffix}'}\n"
        )
        assert "must be aligned" in done.stderr
    array = np.load(tmp_path / "e.npy", allow_pickle=False)
    np.testing.assert_allclose(array, expected(student, 1, 0, 2).numpy(), atol=1e-5)
    names = [str(file) for file in image_files([folder])]
    assert (tmp_path / "e.txt").read_text().splitlines() == names
    with (tmp_path / "e.csv").open() as stream:
        header, *rows = csv.reader(stream)
    assert header[:2] == ["image", "d0"]
    assert [row[0] for row in rows] == names
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], dtype=np.float32), array)
    document = json.loads((tmp_path / "e.json").read_text())
    assert [entry["image"] for entry in document] == names
    np.testing.assert_array_equal(np.array([e["embedding"] for e in document], dtype=np.float32), array)


def test_without_a_file_there_is_one_document_of_unit_embeddings(student: Path, folder: Path) -> None:
    done = embed(folder / "b.png", "--model", student)
    assert done.exit_code == 0, done.output
    [entry] = json.loads(done.stdout)
    assert np.linalg.norm(entry["embedding"]) == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_embedded_is_told_in_one_sentence(student: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG and no more")
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in (
        ((folder,), f"{folder / 'broken.png'} cannot be decoded"),
        ((empty,), f"{empty} holds no image"),
        ((tmp_path / "nobody.png",), f"there is no image {tmp_path / 'nobody.png'}"),
        ((folder / "b.png", "--out", "e.txt"), "--out must end in one of .npy, .csv, .json, got e.txt"),
        ((folder / "b.png", "--out", tmp_path / "no" / "e.npy"), "--out must be in a folder that exists"),
    ):
        done = embed(*arguments, "--model", student)
        assert done.exit_code == 2
        assert message in done.stderr
        assert done.stdout == ""


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    target = tmp_path / "e.csv"
    target.mkdir()
    with pytest.raises(InputError, match=r"e\.csv cannot be written"):
        write_embeddings(target, [Path("a.png")], torch.ones(1, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["e.csv"]
