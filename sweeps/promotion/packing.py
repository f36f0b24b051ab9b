"""A candidate as MLflow keeps models: a folder that any of its tools loads, beside the files to ship."""

import logging
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

import distill
from distill.checkpoint import load_student
from distill.errors import RefusedError
from sweeps.promotion.measuring import Candidate

SERVING_REQUIREMENTS = ("torch", "numpy", "pydantic", "safetensors")
SERVING_CODE = ("__init__.py", "checkpoint.py", "errors.py", "serving.py", "settings.py", "students/*.py")
"""What of `distill` loads a student: few files, since a server takes a request for each."""
MODEL_CARD = "MODEL_CARD.md"
_STEPS = 64
"""Of the example's values: short to write, since MLflow keeps it as JSON."""


def pack(candidate: Candidate, card: str, folder: Path) -> None:
    """Saves the student as a pyfunc model that `distill.serving` loads, and checks that it embeds alike.

    Args:
        card: The text of its model card.
        folder: Where; must not exist.

    Raises:
        RefusedError: If what was saved does not give the student's embeddings.
    """
    (candidate.folder / MODEL_CARD).write_text(card, encoding="utf-8")
    size_px = candidate.card.size_px
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 3, size_px, size_px))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, candidate.card.embedding_dim))]),
    )
    faces = _example(size_px)
    with _quiet():
        mlflow.pyfunc.save_model(
            str(folder),
            loader_module="distill.serving",
            data_path=str(candidate.folder),
            code_paths=[str(_serving_code(folder.with_name("code")))],
            signature=signature,
            input_example=faces,
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in SERVING_REQUIREMENTS],
        )
        path = list(sys.path)
        served = mlflow.pyfunc.load_model(str(folder))
        sys.path[:] = path  # MLflow puts the model's own code first, for good
    student, _ = load_student(candidate.folder)
    with torch.inference_mode():
        expected = student(torch.from_numpy(faces)).numpy()
    if not np.allclose(served.predict(faces), expected, atol=1e-5):
        raise RefusedError("the packed model does not give the student's embeddings: it is not registered")


def stamp(folder: Path, *, model_id: str, location: str, run_id: str | None) -> None:
    """Writes into a packed model which of MLflow's it is."""
    described = Model.load(folder)
    described.model_id = described.model_uuid = model_id
    described.artifact_path = location
    described.run_id = run_id
    described.save(str(folder / "MLmodel"))


def _serving_code(folder: Path) -> Path:
    """Copies what loads a student."""
    package = Path(distill.__file__).parent
    for source in (path for pattern in SERVING_CODE for path in package.glob(pattern)):
        copy = folder / "distill" / source.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
    return folder / "distill"


def _example(size_px: int) -> np.ndarray:
    """One input of shape (1, 3, H, H). It is noise: nobody's face belongs in a registry."""
    drawn = np.random.default_rng(0).integers(-_STEPS, _STEPS, (1, 3, size_px, size_px), endpoint=True)
    return (drawn / _STEPS).astype(np.float32)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what MLflow says to those who write flavors."""
    level = logging.getLogger("mlflow").level
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("mlflow").setLevel(level)
