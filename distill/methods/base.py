"""What a distillation method decides: which faces come next, and what to learn from how they went."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from distill.losses import LossesSettings
from distill.settings import Settings


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
        images: This process's faces, of shape (B, 3, H, H), RGB in [-1, 1].
    """

    images: Tensor


class Method(ABC):
    """Feeds the training loop. One call of `next_batch` and one of `observe` an optimiser step."""

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
        """Everything needed to continue exactly here: tensors and plain types only."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`'s result."""


class MethodSettings(Settings, ABC):
    """Settings of one method."""

    published_losses: ClassVar[LossesSettings]
    """What the method's paper minimises: used where a trial names no loss of its own."""
