"""The student's classifier: a centre for each class, and a margin around it.

B: this worker's share of the batch, C: classes, D: width of the student's embedding
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses.margins import Margin

CENTRE_STD = 0.01
"""Centres only count as directions; how short they start decides how fast they turn."""


class MarginClassifier(nn.Module):
    """Tells the classes of the training faces apart; thrown away with them.

    Args:
        embedding_dim: D.
        num_classes: C, at least 2.
        margin: How a face's own class is made harder to reach.

    Raises:
        ValueError: If there are fewer than two classes.
    """

    def __init__(self, embedding_dim: int, num_classes: int, margin: Margin):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.centre_CD = nn.Parameter(CENTRE_STD * torch.randn(num_classes, embedding_dim))
        self.margin = margin

    def forward(self, embedding_BD: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Compares embeddings with every class centre.

        Args:
            embedding_BD: Raw embeddings, not normalised: their norms matter to some margins.
            labels_B: The class of each face, int64, in [0, C).

        Returns:
            The loss, of shape (): mean cross-entropy of the margin's logits plus the margin's regulariser.
            And scaled cosines without a margin, of shape (B, C).
        """
        cosine_BC = F.linear(F.normalize(embedding_BD), F.normalize(self.centre_CD)).clamp(-1, 1)
        norm_B = torch.linalg.vector_norm(embedding_BD, dim=1)
        logits_BC = self.margin(cosine_BC, labels_B, norm_B=norm_B)
        loss = F.cross_entropy(logits_BC, labels_B) + self.margin.regularizer(norm_B)
        return loss, self.margin.scale * cosine_BC
