"""A student as a teacher: what one study found is what the next one imitates."""

from typing import Literal

from pydantic import Field

from distill.checkpoint import StudentCard, load_student, read_card
from distill.errors import InputError, TeacherError
from distill.settings import LocalPath, Settings
from distill.teachers.base import Teacher


class DistilledTeacherSettings(Settings):
    """A student that was distilled before, from the folder in which its trial or its study left it."""

    name: Literal["distilled"] = "distilled"
    folder: LocalPath
    """A student's folder: `student.safetensors` and `student.json`."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Digest that its weights must have. Unset: the one on its card."""

    @property
    def embedding_dim(self) -> int:
        """Width of the teacher's embeddings. Reads the card, and raises as `load` does."""
        return self._card().embedding_dim

    @property
    def input_px(self) -> int:
        """Side of the faces that the teacher was trained on. Reads the card, and raises as `load` does."""
        return self._card().size_px

    def load(self) -> Teacher:
        """Loads the student, whole and verified, and freezes it.

        Raises:
            TeacherError: If the folder is missing or damaged, or holds another student than the one named.
        """
        self._card()
        try:
            network, card = load_student(self.folder)
        except (InputError, OSError) as error:
            raise TeacherError(f"teacher.folder: {error}") from error
        return Teacher(
            network,
            name=self.name,
            embedding_dim=card.embedding_dim,
            input_px=card.size_px,
            digest=card.sha256,
            card=card.model_dump(mode="json"),
        )

    def _card(self) -> StudentCard:
        try:
            card = read_card(self.folder)
        except (InputError, OSError) as error:
            raise TeacherError(f"teacher.folder: {error}") from error
        if self.sha256 not in (None, card.sha256):
            raise TeacherError(f"teacher.sha256: {self.folder} has {card.sha256}, expected {self.sha256}")
        return card
