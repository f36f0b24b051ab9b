"""What every margin of a classification loss is, and the two moves that all of them make.

B: this worker's share of the batch, C: classes
"""

from abc import ABC, abstractmethod

from pydantic import Field
from torch import Tensor, nn

from distill.settings import Settings


class Margin(nn.Module, ABC):
    """Makes a face's own class harder to reach than it is, so that classes end up further apart.

    Running statistics are buffers, gather the batch over the workers and move in training mode only:
    checkpoints continue exactly, and the number of workers changes nothing.

    Args:
        scale: What cosines are multiplied with to become logits.
    """

    def __init__(self, *, scale: float):
        super().__init__()
        self.scale = scale

    @abstractmethod
    def forward(self, cosine_BC: Tensor, labels_B: Tensor, *, norm_B: Tensor) -> Tensor:
        """Returns the scaled logits, of shape (B, C), that cross-entropy is taken of.

        Args:
            cosine_BC: Cosines between embeddings and class centres, in [-1, 1].
            labels_B: The class of each face, int64, in [0, C).
            norm_B: L2 norms of the raw embeddings. Of unit embeddings they would say nothing.
        """

    def regularizer(self, norm_B: Tensor) -> Tensor:
        """What is added to the mean cross-entropy, of shape (): 0 unless a margin says otherwise."""
        return norm_B.new_zeros(())


class MarginSettings(Settings, ABC):
    """Settings of one margin. Each subclass has a `name` of its own, by which a trial chooses it."""

    scale: float = Field(default=64.0, gt=0.0)
    """What cosines are multiplied with to become logits."""

    @abstractmethod
    def build(self) -> Margin:
        """Makes the margin, its running statistics at their start."""


def target_cosine(cosine_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Each face's cosine with the centre of its own class, of shape (B,)."""
    return cosine_BC.gather(1, labels_B[:, None])[:, 0]


def with_target(cosine_BC: Tensor, labels_B: Tensor, target_B: Tensor) -> Tensor:
    """A copy of `cosine_BC` in which each face's own class has `target_B` instead."""
    return cosine_BC.scatter(1, labels_B[:, None], target_B[:, None])
