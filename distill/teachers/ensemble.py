"""Several teachers that are imitated at once: their embeddings side by side.

Caldeira et al., "MST-KD: Multiple Specialized Teachers Knowledge Distillation for Fair Face Recognition",
ECCV Workshops 2024. https://arxiv.org/abs/2408.16563

B: batch, D: width of the embedding: the sum of the members', H: side of the image
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from distill.settings import Settings
from distill.teachers.base import Teacher
from distill.teachers.distilled import DistilledTeacherSettings
from distill.teachers.embedded import EmbeddedTeacherSettings
from distill.teachers.pretrained import PretrainedTeacherSettings
from distill.teachers.specialist import SpecialistTeacherSettings

MemberSettings = Annotated[
    EmbeddedTeacherSettings
    | PretrainedTeacherSettings
    | DistilledTeacherSettings
    | SpecialistTeacherSettings,
    Field(discriminator="name"),
]


class SideBySide(nn.Module):
    """Concatenates what several teachers say of a face.

    Args:
        members: The teachers, in the order of their embeddings.
    """

    def __init__(self, members: Sequence[Teacher]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H) in [-1, 1] as raw embeddings of shape (B, D)."""
        return torch.cat([member(images) for member in self.members], dim=1)


class EnsembleTeacher(Teacher):
    """A frozen embedder whose members each see the face at their own size.

    Its embedding is the concatenation of the members' raw embeddings, as in MST-KD. The cosine of two such
    is the members' mean cosine, weighted with the norms that they give to the two faces.

    Args:
        members: The teachers, in the order of their embeddings.
    """

    def __init__(self, members: Sequence[Teacher]):
        digests = "\n".join(member.digest for member in members)
        super().__init__(
            SideBySide(members),
            name="ensemble",
            embedding_dim=sum(member.embedding_dim for member in members),
            input_px=max(member.input_px for member in members),
            digest=hashlib.sha256(digests.encode()).hexdigest(),
            card={"name": "ensemble", "members": [member.card for member in members]},
        )

    @property
    def members(self) -> tuple[Teacher, ...]:
        """The teachers, in the order of their embeddings."""
        return tuple(module for module in self.network.modules() if isinstance(module, Teacher))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        # Faces that were resized to the largest member first would reach the others resized twice.
        return self.network(images)


class EnsembleTeacherSettings(Settings):
    """Several teachers side by side, such as one specialist for each demographic group."""

    name: Literal["ensemble"] = "ensemble"
    members: tuple[MemberSettings, ...] = Field(min_length=2)
    """The teachers, in the order of their embeddings."""

    @property
    def embedding_dim(self) -> int:
        """Width of the teacher's embeddings: the sum of the members'. May read a card, as theirs may."""
        return sum(member.embedding_dim for member in self.members)

    @property
    def input_px(self) -> int:
        """The largest side of the faces that a member was trained on."""
        return max(member.input_px for member in self.members)

    def load(self) -> EnsembleTeacher:
        """Loads every member, whole and verified.

        Raises:
            TeacherError: If a member does not load.
        """
        return EnsembleTeacher([member.load() for member in self.members])
