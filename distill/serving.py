"""A promoted student as production loads it: `mlflow.pyfunc.load_model("models:/NAME@champion")`.

MLflow calls `_load_pyfunc` with the student's folder. Nothing in it is unpickled: the weights are
safetensors, the rest is JSON.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from distill.checkpoint import StudentCard, load_student
from distill.errors import InputError


class Embedder:
    """Embeds faces with a student."""

    def __init__(self, student: nn.Module, card: StudentCard):
        self._student = student
        self.card = card

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> np.ndarray:
        """Raw embeddings of shape (N, D), float32; compare two faces by the cosine of theirs.

        Args:
            images: Faces of shape (N, 3, H, H): RGB, float32, in [-1, 1], of the side that the student
                was trained with.
            params: Taken because MLflow passes it; there are none.

        Raises:
            InputError: If the images are of another shape.
        """
        batch = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
        expected = (3, self.card.size_px, self.card.size_px)
        if batch.ndim != 4 or tuple(batch.shape[1:]) != expected:
            raise InputError(
                f"images must be of shape (N, {', '.join(map(str, expected))}), got {tuple(batch.shape)}"
            )
        with torch.inference_mode():
            return self._student(batch).numpy()


def _load_pyfunc(data_path: str) -> Embedder:
    """Loads a student's folder, or the folder that holds it as MLflow copied it."""
    return Embedder(*load_student(Path(data_path)))
