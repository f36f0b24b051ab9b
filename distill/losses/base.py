"""What every distillation loss is, what it may need, and how weighted losses are summed.

B: this worker's share of the batch, C: classes, D: width of the teacher's embedding
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from distill.outputs import ModelOutputs
from distill.settings import Settings

Need = Literal["labels", "positives", "teacher_centres", "classifier", "paired_views", "feature_maps"]
"""What a loss may ask of a trial beside embeddings.

labels: every face has a class. positives: every batch holds several faces of a class. teacher_centres: the
teacher's mean direction of each class. classifier: the student has a head that tells classes apart.
paired_views: the teacher sees a sharper view of each face than the student. feature_maps: both networks have
stages whose maps can be compared.
"""


@dataclass(frozen=True, kw_only=True)
class LossContext:
    """What a loss is built for.

    Attributes:
        student_dim: Width of the student's embedding.
        teacher_dim: Width of the teacher's embedding.
        num_classes: C; None where faces have no labels.
        teacher_centre_CD: The teacher's class centres, unit vectors of shape (C, D); None unless needed.
        student_maps: Shapes (K, H, W) of the student's feature maps, first stage to last.
        teacher_maps: Shapes of the teacher's.
    """

    student_dim: int
    teacher_dim: int
    num_classes: int | None = None
    teacher_centre_CD: Tensor | None = None
    student_maps: tuple[tuple[int, int, int], ...] = ()
    teacher_maps: tuple[tuple[int, int, int], ...] = ()


class DistillationLoss(nn.Module, ABC):
    """One thing that the student is asked to minimise. Subclasses are final: wrap one, don't extend it.

    It may hold parameters (trained with the student's) and buffers (kept in checkpoints). One that looks at
    several faces at once gathers the batch over the workers, so that their number changes nothing.
    """

    @abstractmethod
    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        """Returns the unweighted loss of a batch, of shape (). No gradient reaches the teacher."""


class LossSettings(Settings, ABC):
    """Settings of one loss, what it needs, and how to build it."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    """What a trial must offer."""
    reaches_embedding: ClassVar[bool] = True
    """Whether its gradient reaches the student's embedding, and not only the maps before it."""
    same_width: ClassVar[bool] = False
    """Whether student and teacher embeddings must be equally wide."""

    weight: float = Field(default=1.0, ge=0.0)
    """What the loss is multiplied with. 0 leaves it out."""

    @property
    def min_batch_size(self) -> int:
        """The fewest faces, over all workers, that it makes sense on."""
        return 1

    @abstractmethod
    def build(self, context: LossContext) -> DistillationLoss:
        """Builds the loss. What it needs is there: a trial's config was checked against `needs`."""


class WeightedLosses(nn.Module):
    """Losses by name, each with its weight."""

    def __init__(self, losses: dict[str, DistillationLoss], *, weights: dict[str, float]):
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.weights = weights

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns the weighted terms by name, each of shape (); training minimises their sum."""
        return {
            name: self.weights[name] * loss(student=student, teacher=teacher, labels_B=labels_B)
            for name, loss in self.losses.items()
        }


def require_labels(labels_B: Tensor | None) -> Tensor:
    """The labels of a batch, which a loss that needs them was promised.

    Raises:
        ValueError: If there are none.
    """
    if labels_B is None:
        raise ValueError("labels_B must be given to a loss that needs labels, got None")
    return labels_B


def require_centres(context: LossContext) -> Tensor:
    """The teacher's class centres, which a loss that needs them was promised.

    Raises:
        ValueError: If there are none.
    """
    if context.teacher_centre_CD is None:
        raise ValueError("teacher_centre_CD must be given to a loss that needs them, got None")
    return context.teacher_centre_CD
