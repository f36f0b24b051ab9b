"""What any network says about a batch of faces.

B: batch, D: width of the embedding, C: classes; K, H, W: channels, height and width of a feature map
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ModelOutputs:
    """Outputs of a teacher or a student.

    Attributes:
        embedding: Raw embeddings, not normalised, of shape (B, D).
        logits: Scaled cosines to every class, without a margin, (B, C); None where nothing classifies.
        maps: Feature maps of the stages, first to last, each (B, K, H, W); empty unless a loss compares them.
    """

    embedding: Tensor
    logits: Tensor | None = None
    maps: tuple[Tensor, ...] = ()
