"""A batch in portions, where the memory does not hold what a whole one leaves behind for its gradients.

B: this process's share of the batch
"""

from torch import Tensor

from distill.config import TrialConfig
from distill.errors import InputError
from distill.methods import Batch


def portions(batch: Batch, number: int) -> list[Batch]:
    """Cuts a batch into `number` parts in the order of its faces, whose sizes differ by one at most."""

    def cut(rows_B: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None,) * number if rows_B is None else rows_B.tensor_split(number)

    parts = zip(
        batch.images.tensor_split(number),
        cut(batch.teacher_images),
        cut(batch.teacher_BD),
        cut(batch.labels_B),
        strict=True,
    )
    return [
        Batch(images=images, teacher_images=teacher_images, teacher_BD=teacher_BD, labels_B=labels_B)
        for images, teacher_images, teacher_BD, labels_B in parts
    ]


def refuse_small_portions(config: TrialConfig, *, num_processes: int) -> None:
    """Refuses to cut batches so small that a portion holds no face, or too few for a loss.

    Raises:
        InputError: If `training.accumulation` does.
    """
    training = config.training
    if training.accumulation > (share := training.batch_size // num_processes):
        raise InputError(
            f"training.accumulation must be at most the {share} faces of a worker's share of a batch, "
            f"got {training.accumulation}"
        )
    faces = training.batch_size // training.accumulation
    for name, loss in config.losses_in_use().items():
        if faces < loss.min_batch_size:
            raise InputError(
                f"training.accumulation must leave the {loss.min_batch_size} faces in a portion that "
                f"losses.{name} needs, got {training.accumulation}, which leaves {faces}"
            )
