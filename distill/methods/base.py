"""What a distillation method decides: which faces come next, and what to learn from how they went."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from distill.faces import AnyFacesSettings, FaceGenerator
from distill.losses import LossesSettings, Need
from distill.losses.margins import AnyMarginSettings
from distill.settings import Settings
from distill.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which part of every batch this process works on.

    Every process draws the random numbers of the whole batch and keeps its own rows, so the faces of a
    trial are the same on one worker and on many, and no two workers ever see the same face.
    """

    rank: int = 0
    world_size: int = 1

    def rows(self, batch_size: int) -> slice:
        """The rows of a batch of `batch_size` faces that belong to this process.

        Raises:
            ValueError: If the batch cannot be shared out evenly.
        """
        if batch_size % self.world_size:
            raise ValueError(
                f"training.batch_size must be a multiple of the {self.world_size} workers, got {batch_size}"
            )
        share = batch_size // self.world_size
        return slice(self.rank * share, (self.rank + 1) * share)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one optimiser step is made of.

    Attributes:
        images: This process's faces, as the student sees them: (B, 3, H, H), RGB in [-1, 1].
        teacher_images: The same faces as the teacher sees them. None: as the student does.
        teacher_BD: The target's embeddings of them, where they are known already.
        labels_B: Who is on each, int64 in [0, C). None where that is unknown.
    """

    images: Tensor
    teacher_images: Tensor | None = None
    teacher_BD: Tensor | None = None
    labels_B: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class MethodContext:
    """What a method is built for.

    Attributes:
        faces: Where the trial's faces come from.
        generator: Draws its training faces; None where they are read.
        teacher: The frozen network of the trial.
        batch_size: Faces in a batch, over all processes.
        seed: Of every face that the student is shown.
        shard: Which part of every batch is this process's.
        device: Where its faces are to lie.
        cache: The folder of embedding caches. None: embeddings are kept in this process's memory.
    """

    faces: AnyFacesSettings
    generator: FaceGenerator | None
    teacher: Teacher
    batch_size: int
    seed: int
    shard: Shard
    device: torch.device
    cache: Path | None = None


class Method(ABC):
    """Feeds the training loop. One call of `next_batch` and one of `observe` an optimiser step.

    Attributes:
        target: The frozen network that is imitated: the teacher, or one built on it.
        num_classes: C; None where faces have no labels.
    """

    target: Teacher
    num_classes: int | None = None

    @property
    def teacher_centres(self) -> Tensor | None:
        """The target's unit class centres, of shape (C, D); None where there are no labels."""
        return None

    @abstractmethod
    def next_batch(self) -> Batch:
        """Makes this process's share of the next batch."""

    @abstractmethod
    def observe(self, *, student_BD: Tensor, teacher_BD: Tensor) -> dict[str, Tensor]:
        """Takes the embeddings that the last batch got before the optimiser's step.

        Returns:
            Scalars to average over the epoch, by name, on the device of the embeddings.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that all processes together need to continue exactly here: tensors and plain types only.

        Every process calls it, and gets the same: they may have to gather what each of them has.
        """

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`'s result."""


class MethodSettings(Settings, ABC):
    """Settings of one method."""

    published_losses: ClassVar[LossesSettings]
    """What the method's paper minimises: used where a trial names no loss of its own."""
    published_margin: ClassVar[AnyMarginSettings | None] = None
    """How its paper tells classes apart: used where a trial names no margin of its own."""

    @property
    def offers(self) -> frozenset[Need]:
        """What losses may count on beside embeddings."""
        return frozenset({"feature_maps"})

    needs_generator: ClassVar[bool] = False
    """Whether it draws its faces itself, as it goes."""

    @property
    def classifies(self) -> bool:
        """Whether the student is trained to tell classes apart."""
        return False

    @property
    def transfers(self) -> bool:
        """Whether the student is trained to imitate the teacher."""
        return True

    def target_dim(self, teacher_dim: int) -> int:
        """Width of the embedding that is imitated."""
        return teacher_dim

    def refusal(self, batch_size: int) -> str | None:
        """Why no batch of `batch_size` faces can be made, as `setting must ..., got ...`; None if it can."""
        del batch_size
        return None

    @abstractmethod
    def build(self, context: MethodContext) -> Method:
        """Makes the method for one trial."""
