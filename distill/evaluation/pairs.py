"""Everything that a set of verification pairs tells of a network, from one look at each face."""

from torch import nn

from distill.evaluation.fairness import evaluate_fairness
from distill.evaluation.verification import embed_pairs, pair_similarity, verification_metrics
from distill.faces import VerificationPairs


def evaluate_pairs(network: nn.Module, pairs: VerificationPairs, *, prefix: str) -> dict[str, float]:
    """Measures how well a network verifies `pairs`, and how evenly its groups are served.

    Args:
        network: As in `embed_pairs`.
        prefix: What the pairs stand for, such as `validation`.

    Returns:
        `verification_metrics`, and `evaluate_fairness` where there are groups to compare.

    Raises:
        DivergenceError: If an embedding is not finite.
        ValueError: If the pairs are too few, see both.
    """
    similarity_P = pair_similarity(embed_pairs(network, pairs), pairs)
    metrics = verification_metrics(similarity_P, pairs, prefix=prefix)
    if len(pairs.group_names) > 1:
        metrics |= evaluate_fairness(similarity_P, pairs, prefix=prefix)
    return metrics
