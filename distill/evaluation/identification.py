"""Face identification: who of the enrolled people is this, if anybody?

The first image of each person is enrolled in the gallery, his other images are probes. In the closed set
everybody is enrolled; in the open set some are not, and the network must not take them for somebody else.
Grother et al., "Face Recognition Vendor Test Part 2: Identification", NISTIR 8271, 2019.
https://doi.org/10.6028/NIST.IR.8271. Its false negative identification rate is 1 - TPIR.

A probe that is as similar to a stranger as to himself counts as taken for the stranger.

N: images, D: width of the embedding, I: people in the gallery, Q: probes, B: those of a batch
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill.evaluation.verification import embed_pairs, finest_far
from distill.faces import VerificationPairs

PROBES_AT_ONCE = 4096
RANKS = (1, 5)


@dataclass(frozen=True, kw_only=True)
class OpenSetPoint:
    """A threshold, and what it does to the probes at hand.

    Attributes:
        tpir: Share of mated probes whose most similar person in the gallery is the right one and lies above
            the threshold.
        fpir: Share of non-mated probes that find anybody above the threshold: what was realised, at most what
            was asked for.
        threshold: Similarity strictly above which a person is found.
        num_mated, num_non_mated: Probes that `tpir` and `fpir` were measured on.
    """

    tpir: float
    fpir: float
    threshold: float
    num_mated: int
    num_non_mated: int


def rank_accuracy(unit_ND: Tensor, identity_N: Tensor, *, rank: int) -> float:
    """Share of probes whose person is among the `rank` most similar of the gallery, everybody enrolled.

    Args:
        unit_ND: Unit embeddings of the images.
        identity_N: Who is on each image, int64.
        rank: 1 for the most similar person alone; less than the number of people, where all probes are right.

    Raises:
        ValueError: If `rank` is out of range, or nobody has a second image.
    """
    num_people = len(identity_N.unique())
    if not 1 <= rank < num_people:
        raise ValueError(f"rank must lie in [1, {num_people}), below the number of people, got {rank}")
    is_first_N = _is_first(identity_N)
    own_Q, other_QR = _search(unit_ND, identity_N, gallery_N=is_first_N, probe_N=~is_first_N, depth=rank)
    return (own_Q > other_QR[:, -1]).double().mean().item()


def tpir_at_fpir(
    unit_ND: Tensor, identity_N: Tensor, *, fpir: float, not_enrolled: float = 0.5
) -> OpenSetPoint:
    """True positive identification rate at the lowest threshold whose false positive rate is at most `fpir`.

    Args:
        unit_ND: Unit embeddings of the images.
        identity_N: Who is on each image, int64.
        fpir: Target false positive identification rate, a fraction in (0, 1).
        not_enrolled: Share of the people, in (0, 1), who are not in the gallery, spread evenly over their
            numbers; all their images are non-mated probes.

    Raises:
        ValueError: If `fpir` or `not_enrolled` is not in (0, 1), fewer than two people are enrolled, none of
            them has a second image, or there are too few non-mated probes to measure `fpir`.
    """
    if not 0 < fpir < 1:
        raise ValueError(f"fpir must be a fraction in (0, 1), got {fpir}")
    is_enrolled_N = _is_enrolled(identity_N, not_enrolled)
    num_non_mated = int((~is_enrolled_N).sum())
    num_false_positives = math.floor(fpir * num_non_mated + 1e-9)
    if num_false_positives < 1:
        raise ValueError(
            f"fpir={fpir:g} needs {math.ceil(1 / fpir - 1e-9):,} non-mated probes, got {num_non_mated:,}"
        )
    gallery_N = is_enrolled_N & _is_first(identity_N)
    own_Q, other_Q1 = _search(
        unit_ND, identity_N, gallery_N=gallery_N, probe_N=is_enrolled_N & ~gallery_N, depth=1
    )
    _, top_Q1 = _search(unit_ND, identity_N, gallery_N=gallery_N, probe_N=~is_enrolled_N, depth=1)
    threshold = top_Q1[:, 0].sort(descending=True).values[num_false_positives]
    return OpenSetPoint(
        tpir=((own_Q > other_Q1[:, 0]) & (own_Q > threshold)).double().mean().item(),
        fpir=(top_Q1 > threshold).double().mean().item(),
        threshold=threshold.item(),
        num_mated=len(own_Q),
        num_non_mated=num_non_mated,
    )


def evaluate_identification(network: nn.Module, pairs: VerificationPairs, *, prefix: str) -> dict[str, float]:
    """Measures how well a network identifies the people of `pairs`, whose pairing is passed over.

    Args:
        network: As in `embed_pairs`.
        prefix: What the people stand for, such as `validation`.

    Returns:
        Fractions by name, each under `<prefix>/`:

        rank_1, rank_5: `rank_accuracy`, with everybody in the gallery.
        tpir_at_fpir_1e-<k>: `tpir_at_fpir`, with every second person in the gallery, at the finest decade
            that allows ten false positives (480 non-mated probes: 1e-1); absent below 100 non-mated probes.

    Raises:
        DivergenceError: If an embedding is not finite.
        ValueError: If there are fewer than six people, or nobody has a second image.
    """
    return identification_metrics(embed_pairs(network, pairs), pairs, prefix=prefix)


def identification_metrics(unit_ND: Tensor, pairs: VerificationPairs, *, prefix: str) -> dict[str, float]:
    """`evaluate_identification`, of embeddings that are there already.

    Args:
        unit_ND: Unit embeddings of the images of `pairs`, from `embed_pairs`.
    """
    unit_ND, identity_N = unit_ND.cpu(), pairs.people()
    metrics = {f"rank_{rank}": rank_accuracy(unit_ND, identity_N, rank=rank) for rank in RANKS}
    num_non_mated = int((~_is_enrolled(identity_N, 0.5)).sum())
    if (k := finest_far(num_non_mated)) is not None:
        metrics[f"tpir_at_fpir_1e-{k}"] = tpir_at_fpir(unit_ND, identity_N, fpir=10.0**-k).tpir
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _is_first(identity_N: Tensor) -> Tensor:
    """True for the first image of each person, bool, of shape (N,)."""
    order_N = identity_N.argsort(stable=True)
    begins_N = torch.ones_like(identity_N, dtype=torch.bool)
    begins_N[1:] = identity_N[order_N][1:] != identity_N[order_N][:-1]
    return torch.zeros_like(begins_N).index_fill_(0, order_N[begins_N], True)


def _is_enrolled(identity_N: Tensor, not_enrolled: float) -> Tensor:
    """True for the images of people in the gallery of the open set, bool, of shape (N,)."""
    if not 0 < not_enrolled < 1:
        raise ValueError(f"not_enrolled must be a fraction in (0, 1), got {not_enrolled}")
    person_N = identity_N.unique(return_inverse=True)[1].double()
    # Of the first n people, floor(n * not_enrolled) are left out: those that take this number a step up.
    return ((person_N + 1) * not_enrolled + 1e-9).floor() == (person_N * not_enrolled + 1e-9).floor()


def _search(
    unit_ND: Tensor, identity_N: Tensor, *, gallery_N: Tensor, probe_N: Tensor, depth: int
) -> tuple[Tensor, Tensor]:
    """Compares probes with the gallery.

    Returns:
        Similarity to the probe's own person, of shape (Q,), -inf where he is not enrolled; and to the `depth`
        most similar other people, falling, of shape (Q, depth).
    """
    gallery_ID, enrolled_I = unit_ND[gallery_N], identity_N[gallery_N]
    if not probe_N.any() or len(gallery_ID) <= depth:
        raise ValueError(
            f"identification needs a probe and more than {depth} in the gallery, "
            f"got {int(probe_N.sum())} and {len(gallery_ID)}"
        )
    own, others = [], []
    probes_of_batches = zip(
        unit_ND[probe_N].split(PROBES_AT_ONCE), identity_N[probe_N].split(PROBES_AT_ONCE), strict=True
    )
    for probe_BD, person_B in probes_of_batches:
        similarity_BI = probe_BD @ gallery_ID.T
        is_own_BI = person_B[:, None] == enrolled_I
        own.append(similarity_BI.where(is_own_BI, -torch.inf).amax(1))
        others.append(similarity_BI.where(~is_own_BI, -torch.inf).topk(depth).values)
    return torch.cat(own), torch.cat(others)
