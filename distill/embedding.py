"""Embeddings of images on disk.

Faces must be aligned as the model's training faces were: nothing here finds or turns a face. Of an image that
is not of the model's size, the largest square in the middle is resized to it, as where packs are read.

N: images, D: width of the embedding, H: side of the images
"""

import csv
import io
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import DivergenceError, InputError
from distill.evaluation.mode import evaluating
from distill.faces.packs.images import decode_all
from distill.faces.pixels import as_floats

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
OUTPUTS = (".npy", ".csv", ".json")


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The images that are named, and those in the folders that are named, ordered by name in each.

    Raises:
        InputError: If one does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            inside = [file for file in inside if not file.name.startswith(".")]
            if not inside:
                raise InputError(f"{path} holds no image; an image ends in one of {', '.join(SUFFIXES)}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"there is no image {path}")
    return found


def embed_files(
    network: nn.Module, files: Sequence[Path], *, size_px: int, raw: bool = False, batch_size: int = 128
) -> Tensor:
    """Embeds images, each once and as it is: unlike in evaluation, its mirror image adds nothing.

    Args:
        network: Maps images of shape (B, 3, H, H), RGB in [-1, 1], to raw embeddings.
        size_px: H.
        raw: Whether embeddings stay as long as the network makes them; else they have unit length.

    Returns:
        Of shape (N, D), float32, on the CPU.

    Raises:
        InputError: If an image cannot be decoded.
        DivergenceError: If an embedding is not finite.
    """
    device = next(network.parameters(), torch.empty(0)).device
    batches = []
    with evaluating(network):
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            images = decode_all([(file, str(file)) for file in batch], size_px=size_px)
            batches.append(network(as_floats(images.to(device))).cpu())
    embedding_ND = torch.cat(batches)
    if not embedding_ND.isfinite().all():
        worst = files[int((~embedding_ND.isfinite()).any(1).nonzero()[0])]
        raise DivergenceError(f"the model gives an embedding that is not finite to {worst}")
    return embedding_ND if raw else F.normalize(embedding_ND)


def check_output(path: Path) -> None:
    """Whether embeddings can be written to a file, before they are made.

    Raises:
        InputError: If its ending is none of `OUTPUTS`, or its folder is missing.
    """
    if path.suffix.lower() not in OUTPUTS:
        raise InputError(f"--out must end in one of {', '.join(OUTPUTS)}, got {path}")
    if not path.parent.is_dir():
        raise InputError(f"--out must be in a folder that exists, got {path}")


def write_embeddings(path: Path, files: Sequence[Path], embedding_ND: Tensor) -> None:
    """Writes embeddings as NumPy's array, as CSV or as JSON, by the ending of `path`.

    CSV and JSON name each image. Beside an array of NumPy's, whose rows are in the order of `files`, their
    names are written to a `.txt` file of the same name.

    Raises:
        InputError: As `check_output`, or if it cannot be written.
    """
    check_output(path)
    try:
        match path.suffix.lower():
            case ".npy":
                array = io.BytesIO()
                np.save(array, embedding_ND.numpy(), allow_pickle=False)
                _write(path, array.getvalue())
                _write(path.with_suffix(".txt"), "".join(f"{file}\n" for file in files).encode())
            case ".csv":
                text = io.StringIO()
                writer = csv.writer(text, lineterminator="\n")
                writer.writerow(["image", *(f"d{column}" for column in range(embedding_ND.shape[1]))])
                writer.writerows([file, *row] for file, row in zip(files, embedding_ND.tolist(), strict=True))
                _write(path, text.getvalue().encode())
            case _:
                _write(path, json.dumps(document(files, embedding_ND)).encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror})") from error


def document(files: Sequence[Path], embedding_ND: Tensor) -> list[dict[str, object]]:
    """Images and their embeddings, in plain types."""
    rows = zip(files, embedding_ND.tolist(), strict=True)
    return [{"image": str(file), "embedding": row} for file, row in rows]


def _write(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        file.write(content)
    try:
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError:
        os.unlink(file.name)
        raise
