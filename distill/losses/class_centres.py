"""What losses do with class centres: find them, compare with them, and ask for a margin.

B: this worker's share of the batch, N: faces of a set, C: classes, D: width of the embedding
"""

import torch.nn.functional as F
from torch import Tensor

from distill.losses.angles import widened
from distill.losses.margins.base import target_cosine, with_target
from distill.outputs import ModelOutputs


def mean_directions(unit_ND: Tensor, label_N: Tensor, *, num_classes: int) -> Tensor:
    """The mean direction of each class, unit vectors of shape (C, D); zeros for a class without a face.

    Args:
        unit_ND: Unit embeddings, or sums of several of one face.
        label_N: The class of each, int64, in [0, C).
    """
    centre_CD = unit_ND.new_zeros(num_classes, unit_ND.shape[1]).index_add_(0, label_N, unit_ND)
    return F.normalize(centre_CD)


def cosines_to_centres(embedding_BD: Tensor, centre_CD: Tensor) -> Tensor:
    """Cosine of each raw embedding to each unit centre, of shape (B, C)."""
    return F.normalize(embedding_BD) @ centre_CD.T


def arcface_cross_entropy(
    cosine_BC: Tensor, labels_B: Tensor, *, scale: float, margin_rad: float | Tensor
) -> Tensor:
    """Batch mean of the cross-entropy of scaled cosines, the angle to the true class widened by a margin.

    Deng et al., "ArcFace", CVPR 2019. https://arxiv.org/abs/1801.07698

    Args:
        cosine_BC: Cosines to every class.
        margin_rad: One margin for all faces, or one for each, of shape (B,), in [0, pi / 2].
    """
    true_B = widened(target_cosine(cosine_BC, labels_B), margin_rad)
    return _cross_entropy(cosine_BC, labels_B, true_B=true_B, scale=scale)


def cosface_cross_entropy(cosine_BC: Tensor, labels_B: Tensor, *, scale: float, margin: float) -> Tensor:
    """Batch mean of the cross-entropy of scaled cosines, that to the true class lowered by a margin.

    Wang et al., "CosFace", CVPR 2018. https://arxiv.org/abs/1801.09414
    """
    true_B = target_cosine(cosine_BC, labels_B) - margin
    return _cross_entropy(cosine_BC, labels_B, true_B=true_B, scale=scale)


def require_logits(student: ModelOutputs) -> Tensor:
    """The student's logits (B, C), which a loss that needs a classifier was promised.

    Raises:
        ValueError: If there are none.
    """
    if student.logits is None:
        raise ValueError("student.logits must be given to a loss that needs a classifier, got None")
    return student.logits


def _cross_entropy(cosine_BC: Tensor, labels_B: Tensor, *, true_B: Tensor, scale: float) -> Tensor:
    return F.cross_entropy(scale * with_target(cosine_BC, labels_B, true_B), labels_B)
