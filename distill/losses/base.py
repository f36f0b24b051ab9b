"""What every distillation loss is, and how weighted losses are summed."""

from abc import ABC, abstractmethod

from pydantic import Field
from torch import Tensor, nn

from distill.outputs import ModelOutputs
from distill.settings import Settings


class DistillationLoss(nn.Module, ABC):
    """One thing that the student is asked to minimise. Subclasses are final: wrap one, don't extend it.

    It may hold parameters (trained with the student's) and buffers (kept in checkpoints).
    """

    @abstractmethod
    def forward(self, *, student: ModelOutputs, teacher: ModelOutputs) -> Tensor:
        """Returns the unweighted loss of a batch, of shape (). No gradient reaches the teacher."""


class LossSettings(Settings, ABC):
    """Settings of one loss, and how to build it."""

    weight: float = Field(default=1.0, ge=0.0)
    """What the loss is multiplied with. 0 leaves it out."""

    @abstractmethod
    def build(self, *, student_dim: int, teacher_dim: int) -> DistillationLoss:
        """Builds the loss for these widths of embeddings.

        Raises:
            InputError: If the loss cannot compare embeddings of these widths.
        """


class WeightedLosses(nn.Module):
    """Losses by name, each with its weight."""

    def __init__(self, losses: dict[str, DistillationLoss], *, weights: dict[str, float]):
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.weights = weights

    def forward(self, *, student: ModelOutputs, teacher: ModelOutputs) -> dict[str, Tensor]:
        """Returns the weighted terms by name, each of shape (); training minimises their sum."""
        return {
            name: self.weights[name] * loss(student=student, teacher=teacher)
            for name, loss in self.losses.items()
        }
