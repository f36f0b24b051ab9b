"""What any network says about a batch of faces."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ModelOutputs:
    """Outputs of a teacher or a student.

    Attributes:
        embedding: Raw embeddings, not normalised, of shape (B, D).
    """

    embedding: Tensor
