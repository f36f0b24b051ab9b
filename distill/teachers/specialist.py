"""Teachers that each know one demographic group only, which ship with the code.

Caldeira et al., "MST-KD: Multiple Specialized Teachers Knowledge Distillation for Fair Face Recognition",
ECCV Workshops 2024. https://arxiv.org/abs/2408.16563
"""

from pathlib import Path
from typing import Literal

from distill.settings import Settings
from distill.students import IResNet
from distill.teachers.base import Teacher
from distill.teachers.load import load_weights, read_card

Group = Literal["group_a", "group_b", "group_c", "group_d"]
SHIPPED_FOLDER = Path(__file__).parent / "weights"
INPUT_PX = 32
EMBEDDING_DIM = 64


def specialist_network() -> IResNet:
    """A quarter of the embedded teacher with fresh weights: a study asks four of them at every step."""
    return IResNet(
        blocks=(1, 1, 1, 1), widths=(16, 24, 48, 64), embedding_dim=EMBEDDING_DIM, size_px=INPUT_PX
    )


def specialist_name(group: Group) -> str:
    """What a specialist is called, and the stem of its two files."""
    return f"specialist_{group}"


class SpecialistTeacherSettings(Settings):
    """A small IResNet trained by ArcFace on authentic faces of one group of the embedded world."""

    name: Literal["specialist"] = "specialist"
    group: Group
    """The group whose people it was taught to tell apart. It never saw anybody else."""

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
            TeacherError: If the weights or their card are missing, damaged, or do not fit.
        """
        path = SHIPPED_FOLDER / f"{specialist_name(self.group)}.safetensors"
        card = read_card(path.with_suffix(".json"))
        network = specialist_network()
        load_weights(network, path, sha256=card["sha256"])
        return Teacher(
            network,
            name=path.stem,
            embedding_dim=EMBEDDING_DIM,
            input_px=INPUT_PX,
            digest=card["sha256"],
            card=card,
        )
