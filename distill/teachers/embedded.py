"""The teacher of the embedded world, which ships with the code."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from distill.settings import LocalPath, Settings
from distill.students import IResNet
from distill.teachers.base import Teacher
from distill.teachers.load import load_weights, read_card

SHIPPED_WEIGHTS = Path(__file__).parent / "weights" / "embedded.safetensors"
INPUT_PX = 32
EMBEDDING_DIM = 128


def embedded_network() -> IResNet:
    """A small IResNet with fresh weights. It must cost little: every step of a distillation asks it."""
    return IResNet(
        blocks=(1, 2, 2, 1), widths=(16, 48, 96, 128), embedding_dim=EMBEDDING_DIM, size_px=INPUT_PX
    )


class EmbeddedTeacherSettings(Settings):
    """A small IResNet trained by ArcFace on authentic faces of the embedded world."""

    name: Literal["embedded"] = "embedded"
    weights: LocalPath | None = None
    """A safetensors file that `distill teacher` wrote. Unset: the file that ships with the code."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Digest that the file must have. Unset: the one on the card beside it (same name, `.json`)."""

    @property
    def embedding_dim(self) -> int:
        """Width of the teacher's embeddings."""
        return EMBEDDING_DIM

    @property
    def input_px(self) -> int:
        """Side of the faces that the teacher was trained on."""
        return INPUT_PX

    def load(self) -> Teacher:
        """Loads the teacher, whole and verified.

        Raises:
            TeacherError: If the weights are missing, damaged, not the ones named, or do not fit.
        """
        path = SHIPPED_WEIGHTS if self.weights is None else self.weights
        card_path = path.with_suffix(".json")
        card = read_card(card_path) if self.sha256 is None or card_path.is_file() else {}
        network = embedded_network()
        sha256 = self.sha256 or card["sha256"]
        load_weights(network, path, sha256=sha256)
        return Teacher(
            network, name=self.name, embedding_dim=EMBEDDING_DIM, input_px=INPUT_PX, digest=sha256, card=card
        )
