"""What losses do with class centres: cosines to them, and cross-entropies that ask for a margin.

B: this worker's share of the batch, C: classes, D: width of the embedding
"""

import torch.nn.functional as F
from torch import Tensor

from distill.losses.angles import widened
from distill.outputs import ModelOutputs


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
    true_B = widened(_true_cosine(cosine_BC, labels_B), margin_rad)
    return _cross_entropy(cosine_BC, labels_B, true_B=true_B, scale=scale)


def cosface_cross_entropy(cosine_BC: Tensor, labels_B: Tensor, *, scale: float, margin: float) -> Tensor:
    """Batch mean of the cross-entropy of scaled cosines, that to the true class lowered by a margin.

    Wang et al., "CosFace", CVPR 2018. https://arxiv.org/abs/1801.09414
    """
    true_B = _true_cosine(cosine_BC, labels_B) - margin
    return _cross_entropy(cosine_BC, labels_B, true_B=true_B, scale=scale)


def require_logits(student: ModelOutputs) -> Tensor:
    """The student's logits (B, C), which a loss that needs a classifier was promised.

    Raises:
        ValueError: If there are none.
    """
    if student.logits is None:
        raise ValueError("student.logits must be given to a loss that needs a classifier, got None")
    return student.logits


def _true_cosine(cosine_BC: Tensor, labels_B: Tensor) -> Tensor:
    return cosine_BC.gather(1, labels_B[:, None])[:, 0]


def _cross_entropy(cosine_BC: Tensor, labels_B: Tensor, *, true_B: Tensor, scale: float) -> Tensor:
    logits_BC = scale * cosine_BC.scatter(1, labels_B[:, None], true_B[:, None])
    return F.cross_entropy(logits_BC, labels_B)
