"""How closely a student follows its teacher on given faces.

N: faces, B: those of a batch, D: width of the embedding
"""

import torch.nn.functional as F
from torch import Tensor, nn

from distill.evaluation.mode import evaluating
from distill.losses import raw_mse


def evaluate_agreement(
    student: nn.Module, images: Tensor, teacher_ND: Tensor, *, prefix: str, batch_size: int = 128
) -> dict[str, float]:
    """Compares the embeddings that student and teacher give to the same faces.

    Args:
        student: Used in evaluation mode; comes back in the mode it was in.
        images: N faces of shape (N, 3, H, H), RGB in [-1, 1], on the student's device.
        teacher_ND: The teacher's raw embeddings of these faces: it need not embed them every epoch.
        prefix: What the faces stand for, such as `validation`.

    Returns:
        `<prefix>/teacher_mse`, the mean squared difference of raw embeddings over faces and dimensions, and
        `<prefix>/teacher_similarity`, the mean cosine similarity, in [-1, 1].
    """
    squared_error = similarity = 0.0
    with evaluating(student):
        for faces, teacher_BD in zip(images.split(batch_size), teacher_ND.split(batch_size), strict=True):
            student_BD = student(faces)
            squared_error += raw_mse(student_BD, teacher_BD).item() * len(faces)
            similarity += F.cosine_similarity(student_BD, teacher_BD).sum().item()
    return {
        f"{prefix}/teacher_mse": squared_error / len(images),
        f"{prefix}/teacher_similarity": similarity / len(images),
    }
