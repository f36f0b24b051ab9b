"""Everything that a set of verification pairs tells of a network, from one look at each face."""

from torch import Tensor, nn

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
    return pair_metrics(pair_similarity(embed_pairs(network, pairs), pairs), pairs, prefix=prefix)


def pair_metrics(similarity_P: Tensor, pairs: VerificationPairs, *, prefix: str) -> dict[str, float]:
    """`evaluate_pairs`, of similarities that are there already.

    Args:
        similarity_P: Cosine similarity of each pair, from `pair_similarity`.
    """
    metrics = verification_metrics(similarity_P, pairs, prefix=prefix)
    if len(pairs.group_names) > 1:
        metrics |= evaluate_fairness(similarity_P, pairs, prefix=prefix)
    return metrics
