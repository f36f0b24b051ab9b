"""Face verification: are two faces the same person?

The ten-fold protocol is LFW's, as InsightFace runs it. Huang et al., "Labeled Faces in the Wild", 2007,
http://vis-www.cs.umass.edu/lfw. https://github.com/deepinsight/insightface

False accept and true accept rates (FAR, TAR) are FMR and 1 - FNMR in ISO/IEC 19795-1 when every image enrols.

N: images, P: pairs, D: width of the embedding, F: folds, T: thresholds, S: distinct similarities
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import DivergenceError
from distill.evaluation.mode import evaluating
from distill.faces import VerificationPairs
from distill.faces.pixels import as_floats

NUM_FOLDS = 10
THRESHOLDS_T = torch.arange(400, dtype=torch.float64) * 0.01
"""Squared distances of unit embeddings at which the ten-fold protocol may cut."""
MIN_FALSE_ACCEPTS = 10
"""False accepts that a reported FAR allows at least: fewer make the TAR at it a matter of luck."""


def embed_images(
    network: nn.Module, images_NCHW: Tensor, *, batch_size: int = 128, faces: str = "the images"
) -> Tensor:
    """Embeds every image once, on the device of the network.

    The raw embeddings of a face and of its mirror image are summed, then scaled to unit length.

    Args:
        network: Maps images of shape (B, 3, H, H), RGB in [-1, 1], to raw embeddings. It is used in
            evaluation mode and comes back in the mode it was in.
        images_NCHW: RGB, uint8, of shape (N, 3, H, H).
        batch_size: Images, and then as many mirror images, that are embedded at a time.
        faces: What the images are, for the error.

    Returns:
        Unit embeddings of shape (N, D), float32.

    Raises:
        DivergenceError: If an embedding is not finite: such a network has no accuracy to speak of.
    """
    device = next(network.parameters(), torch.empty(0)).device
    units = []
    with evaluating(network):
        for images in images_NCHW.split(batch_size):
            upright = as_floats(images.to(device))
            units.append(F.normalize(network(upright) + network(upright.flip(-1))))
    unit_ND = torch.cat(units)
    if not unit_ND.isfinite().all():
        raise DivergenceError(f"the network gives embeddings that are not finite to {faces}")
    return unit_ND


def embed_pairs(network: nn.Module, pairs: VerificationPairs, *, batch_size: int = 128) -> Tensor:
    """`embed_images` of the images of `pairs`."""
    return embed_images(network, pairs.images_NCHW, batch_size=batch_size, faces=f"faces of {pairs.name}")


def pair_similarity(unit_ND: Tensor, pairs: VerificationPairs) -> Tensor:
    """Cosine similarity of the two images of each pair, in [-1, 1], float64, of shape (P,).

    Args:
        unit_ND: Unit embeddings of the images of `pairs`, on any device; the result is on the CPU.
    """
    unit_ND = unit_ND.cpu().double()
    return 1 - (unit_ND[pairs.left_P] - unit_ND[pairs.right_P]).square().sum(1) / 2


@dataclass(frozen=True, kw_only=True)
class TenFold:
    """What the ten-fold protocol found.

    Attributes:
        accuracies: Share of each held-out fold's pairs that were judged rightly, of shape (F,).
        thresholds: Squared distance below which each held-out fold's pairs were accepted, of shape (F,).
        is_right: Whether each pair was judged rightly when its fold was held out, of shape (P,).
    """

    accuracies: Tensor
    thresholds: Tensor
    is_right: Tensor

    @property
    def accuracy(self) -> float:
        """Mean over the folds, a fraction."""
        return self.accuracies.mean().item()

    @property
    def accuracy_std(self) -> float:
        """Population standard deviation over the folds."""
        return self.accuracies.std(correction=0).item()


def ten_fold(distance_P: Tensor, is_genuine_P: Tensor) -> TenFold:
    """Verification accuracy of ten contiguous folds, each at the threshold that suits the other nine best.

    A pair is accepted when its distance is strictly below the threshold. Thresholds are 0, 0.01, ... 3.99; of
    equally good ones the lowest is taken. The first P mod 10 folds hold one pair more than the others. The
    order of the pairs is part of the protocol.

    Args:
        distance_P: Squared Euclidean distance of the unit embeddings of each pair, in [0, 4].
        is_genuine_P: True where both images show the same person.

    Raises:
        ValueError: If there are fewer than ten pairs.
    """
    num_pairs = len(distance_P)
    if num_pairs < NUM_FOLDS:
        raise ValueError(f"ten folds need at least 10 pairs, got {num_pairs}")
    distance_P, is_genuine_P = distance_P.cpu().double(), is_genuine_P.cpu()
    size, longer = divmod(num_pairs, NUM_FOLDS)
    size_F = torch.full((NUM_FOLDS,), size) + (torch.arange(NUM_FOLDS) < longer)
    fold_P = torch.arange(NUM_FOLDS).repeat_interleave(size_F)

    # A pair is accepted at every threshold from its first one on, so running sums over a histogram of
    # first thresholds give the accepted pairs at all of them.
    num_columns = len(THRESHOLDS_T) + 1
    first_threshold_P = torch.searchsorted(THRESHOLDS_T, distance_P, right=True)
    cell_P = (fold_P * 2 + is_genuine_P.long()) * num_columns + first_threshold_P
    histogram = torch.bincount(cell_P, minlength=NUM_FOLDS * 2 * num_columns)
    accepted_FT = histogram.view(NUM_FOLDS, 2, num_columns).cumsum(-1)[:, :, :-1]
    impostors_F1 = torch.bincount(fold_P[~is_genuine_P], minlength=NUM_FOLDS)[:, None]
    right_FT = accepted_FT[:, 1] + impostors_F1 - accepted_FT[:, 0]

    best_F = (right_FT.sum(0) - right_FT).argmax(1)
    threshold_F = THRESHOLDS_T[best_F]
    return TenFold(
        accuracies=right_FT.gather(1, best_F[:, None])[:, 0].double() / size_F,
        thresholds=threshold_F,
        is_right=(distance_P < threshold_F[fold_P]) == is_genuine_P,
    )


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold, and what it does to the pairs at hand.

    Attributes:
        tar: Share of genuine pairs that are accepted.
        far: Share of impostor pairs that are accepted: what was realised, at most what was asked for.
        threshold: Similarity strictly above which a pair is accepted.
        num_impostors: Impostor pairs that `far` was measured on.
    """

    tar: float
    far: float
    threshold: float
    num_impostors: int


def tar_at_far(similarity_P: Tensor, is_genuine_P: Tensor, *, far: float) -> OperatingPoint:
    """True accept rate at the lowest threshold whose false accept rate is at most `far`.

    Args:
        similarity_P: Cosine similarity of each pair; higher is more alike.
        is_genuine_P: True where both images show the same person.
        far: Target false accept rate, a fraction in (0, 1): 1e-4, not 0.01%.

    Raises:
        ValueError: If `far` is not in (0, 1), there is no genuine pair, or there are too few impostor
            pairs to measure `far`.
    """
    if not 0 < far < 1:
        raise ValueError(f"far must be a fraction in (0, 1), got {far}")
    genuine, impostor = similarity_P[is_genuine_P], similarity_P[~is_genuine_P]
    num_false_accepts = math.floor(far * len(impostor) + 1e-9)
    if len(genuine) == 0:
        raise ValueError("tar_at_far needs a genuine pair, got none")
    if num_false_accepts < 1:
        raise ValueError(
            f"far={far:g} needs {math.ceil(1 / far - 1e-9):,} impostor pairs, got {len(impostor):,}"
        )
    threshold = impostor.sort(descending=True).values[num_false_accepts]
    return OperatingPoint(
        tar=(genuine > threshold).double().mean().item(),
        far=(impostor > threshold).double().mean().item(),
        threshold=threshold.item(),
        num_impostors=len(impostor),
    )


def finest_far(num_impostors: int) -> int | None:
    """The largest k for which a FAR of 10^-k still allows ten false accepts; None below 100 impostors."""
    k = math.floor(math.log10(num_impostors / MIN_FALSE_ACCEPTS) + 1e-9) if num_impostors else 0
    return k if k >= 1 else None


def roc(similarity_P: Tensor, is_genuine_P: Tensor) -> tuple[Tensor, Tensor]:
    """False and true accept rates of all pairs pooled, from accepting none to accepting all.

    Pairs of the same similarity are accepted together, so the curve has one point for each distinct one.

    Returns:
        FAR and TAR, each of shape (S + 1,), float64, rising from 0 to 1.

    Raises:
        ValueError: If there is no genuine or no impostor pair.
    """
    num_genuine = int(is_genuine_P.sum())
    num_impostors = len(is_genuine_P) - num_genuine
    if not (num_genuine and num_impostors):
        raise ValueError(
            f"a ROC needs both kinds of pairs, got {num_genuine} genuine, {num_impostors} impostor"
        )
    distinct_S, index_P = torch.unique(similarity_P, return_inverse=True)
    counts = torch.bincount(index_P * 2 + is_genuine_P.long(), minlength=2 * len(distinct_S)).view(-1, 2)
    accepted = F.pad(counts.flip(0).cumsum(0), (0, 0, 1, 0)).double()
    return accepted[:, 0] / num_impostors, accepted[:, 1] / num_genuine


def det(similarity_P: Tensor, is_genuine_P: Tensor) -> tuple[Tensor, Tensor]:
    """False accept and false reject rates of all pairs pooled: what a detection error trade-off curve plots.

    Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
    https://www.isca-archive.org/eurospeech_1997/martin97b_eurospeech.html

    Returns:
        FAR, rising from 0 to 1, and FRR, falling from 1 to 0, each of shape (S + 1,), float64. Their axes are
        commonly scaled as normal deviates, where the ends lie at infinity.

    Raises:
        ValueError: If there is no genuine or no impostor pair.
    """
    far_S, tar_S = roc(similarity_P, is_genuine_P)
    return far_S, 1 - tar_S


def equal_error_rate(far_S: Tensor, tar_S: Tensor) -> float:
    """Where false accept and false reject rates meet, on straight lines between the points of a `roc`."""
    excess_S = far_S - (1 - tar_S)  # rises from -1 to 1
    after = int((excess_S >= 0).nonzero()[0])
    share = excess_S[after - 1] / (excess_S[after - 1] - excess_S[after])
    return torch.lerp(far_S[after - 1], far_S[after], share).item()


def area_under_curve(far_S: Tensor, tar_S: Tensor) -> float:
    """Probability that a genuine pair is more alike than an impostor pair; ties count half."""
    return torch.trapezoid(tar_S, far_S).item()


def evaluate_verification(network: nn.Module, pairs: VerificationPairs, *, prefix: str) -> dict[str, float]:
    """`verification_metrics` of a network.

    Args:
        network: As in `embed_pairs`.

    Raises:
        DivergenceError: If an embedding is not finite.
        ValueError: As `verification_metrics`.
    """
    return verification_metrics(pair_similarity(embed_pairs(network, pairs), pairs), pairs, prefix=prefix)


def verification_metrics(similarity_P: Tensor, pairs: VerificationPairs, *, prefix: str) -> dict[str, float]:
    """Measures how well `pairs` are verified.

    Args:
        similarity_P: Cosine similarity of each pair, from `pair_similarity`.
        prefix: What the pairs stand for, such as `validation`.

    Returns:
        Fractions by name, each under `<prefix>/`:

        verification_accuracy, verification_accuracy_std: `ten_fold` over all pairs.
        eer, auc: Of the pooled ROC; NaN where all pairs are of one kind, and the accuracy says little then.
        tar_at_far_1e-<k>: `tar_at_far` at the finest decade that allows ten false accepts (3,000 impostors:
            1e-2); absent below 100 impostors.
        verification_accuracy_<group>: `ten_fold` over the pairs of one group, so at its own thresholds.
        shared_threshold_accuracy_<group>: Share of the group's pairs that the thresholds of all pairs
            judge rightly: what the group meets where one threshold serves everybody.

    Raises:
        ValueError: If there are fewer than ten pairs, in all or in a group.
    """
    distance_P = 2 * (1 - similarity_P)
    folds = ten_fold(distance_P, pairs.is_genuine_P)
    metrics = {
        "verification_accuracy": folds.accuracy,
        "verification_accuracy_std": folds.accuracy_std,
        "eer": math.nan,
        "auc": math.nan,
    }
    if 0 < int(pairs.is_genuine_P.sum()) < len(pairs.is_genuine_P):
        far_S, tar_S = roc(similarity_P, pairs.is_genuine_P)
        metrics |= {"eer": equal_error_rate(far_S, tar_S), "auc": area_under_curve(far_S, tar_S)}
    if (k := finest_far(int((~pairs.is_genuine_P).sum()))) is not None:
        metrics[f"tar_at_far_1e-{k}"] = tar_at_far(similarity_P, pairs.is_genuine_P, far=10.0**-k).tar
    for index, group in enumerate(pairs.group_names):
        in_group_P = pairs.group_P == index
        own = ten_fold(distance_P[in_group_P], pairs.is_genuine_P[in_group_P])
        metrics[f"verification_accuracy_{group}"] = own.accuracy
        metrics[f"shared_threshold_accuracy_{group}"] = folds.is_right[in_group_P].double().mean().item()
    return {f"{prefix}/{name}": value for name, value in metrics.items()}
