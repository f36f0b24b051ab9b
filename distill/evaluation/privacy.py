"""How much of a real person shows in the synthetic faces that were generated from him.

Boutros et al., "SFace: Privacy-friendly and Accurate Face Recognition using Synthetic Data", IJCB 2022.
https://arxiv.org/abs/2206.10520

An embedder that is not the teacher compares authentic faces with each other, synthetic faces with each other,
and authentic with synthetic ones. Where the cross comparison cannot tell a class's own synthetic faces from
those of other classes, nobody can be found again in the synthetic set by his class.

FMR and FNMR, the shares of wrongly accepted impostor and wrongly refused genuine pairs, are FAR and 1 - TAR
where every image enrols.

N: reference images, M: probe images, P: pairs, I: impostor pairs, D: width of the embedding
"""

import math
import random
from collections.abc import Sized
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from distill.errors import InputError
from distill.evaluation.verification import embed_images, equal_error_rate, roc, tar_at_far

NUM_IMPOSTORS = 50_000
"""Impostor pairs that are drawn where there are more."""
HIT_FAR = 1e-3
"""FAR among authentic faces at whose threshold a nearest neighbour counts as a hit."""
_PAIRS_AT_A_TIME = 65_536
_PROBES_AT_A_TIME = 1_024


class LabelledImages(Protocol):
    """Images of known classes.

    Attributes:
        images: The N images, in memory or in a store.
        label_N: The class of each image, int64. Synthetic class k was generated from authentic identity k.
    """

    @property
    def images(self) -> Sized: ...

    @property
    def label_N(self) -> Tensor: ...  # noqa: N802

    def read(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Images by index, RGB, uint8, (B, 3, H, H), and the indices of those that were read."""
        ...


@dataclass(frozen=True, kw_only=True)
class IdentityPairs:
    """Which images one comparison holds against each other: first all genuine pairs, then the impostors.

    Attributes:
        reference_P, probe_P: The two images of each pair, as int64 indices.
        is_genuine_P: Whether both are of one class, bool.
    """

    reference_P: Tensor
    probe_P: Tensor
    is_genuine_P: Tensor

    @property
    def num_genuine(self) -> int:
        return int(self.is_genuine_P.sum())

    @property
    def num_impostors(self) -> int:
        return len(self.is_genuine_P) - self.num_genuine


def pairs_within(label_N: Tensor, *, num_impostors: int = NUM_IMPOSTORS, seed: int = 0) -> IdentityPairs:
    """Pairs of different images of one set, each counted once, whichever of the two comes first.

    Args:
        label_N: The class of each image, int64.
        num_impostors: Pairs of different classes: a random choice without repetition, or all there are.

    Returns:
        All pairs of one class, then the impostors.
    """
    order_N = label_N.argsort(stable=True)
    _, end_N = _span_of_class(label_N[order_N], label_N[order_N])
    next_N = torch.arange(1, len(label_N) + 1)

    # In the order of their classes an image's later relatives follow at once, all later strangers after them.
    first_G, step_G = _in_row(_all_of(end_N - next_N), end_N - next_N)
    strangers_N = len(label_N) - end_N
    first_I, step_I = _in_row(_draw(strangers_N, num_impostors, seed), strangers_N)
    return _joined(
        genuine=(order_N[first_G], order_N[next_N[first_G] + step_G]),
        impostors=(order_N[first_I], order_N[end_N[first_I] + step_I]),
    )


def pairs_across(
    reference_label_N: Tensor, probe_label_M: Tensor, *, num_impostors: int = NUM_IMPOSTORS, seed: int = 0
) -> IdentityPairs:
    """Pairs of a reference image and a probe image. As in `pairs_within`, with all pairs of equal labels."""
    order_M = probe_label_M.argsort(stable=True)
    begin_N, end_N = _span_of_class(probe_label_M[order_M], reference_label_N)
    relatives_N = end_N - begin_N

    reference_G, step_G = _in_row(_all_of(relatives_N), relatives_N)
    strangers_N = len(probe_label_M) - relatives_N
    reference_I, step_I = _in_row(_draw(strangers_N, num_impostors, seed), strangers_N)
    skipped_I = torch.where(step_I >= begin_N[reference_I], relatives_N[reference_I], 0)
    return _joined(
        genuine=(reference_G, order_M[begin_N[reference_G] + step_G]),
        impostors=(reference_I, order_M[step_I + skipped_I]),
    )


def pair_similarities(reference_ND: Tensor, probe_MD: Tensor, pairs: IdentityPairs) -> Tensor:
    """Cosine similarity of each pair of unit embeddings, of shape (P,)."""
    chunks = zip(
        pairs.reference_P.split(_PAIRS_AT_A_TIME), pairs.probe_P.split(_PAIRS_AT_A_TIME), strict=True
    )
    return torch.cat([(reference_ND[left] * probe_MD[right]).sum(1) for left, right in chunks])


def fisher_discriminant_ratio(genuine_P: Tensor, impostor_P: Tensor) -> float:
    """Squared distance of the two means over the sum of the two population variances; 0 where both agree.

    Raises:
        ValueError: If neither kind of score varies.
    """
    spread = genuine_P.var(correction=0) + impostor_P.var(correction=0)
    if spread == 0:
        raise ValueError("the Fisher discriminant ratio needs scores that vary, got constant ones")
    return ((genuine_P.mean() - impostor_P.mean()).square() / spread).item()


def separation(similarity_P: Tensor, is_genuine_P: Tensor) -> dict[str, float]:
    """How well scores tell genuine pairs from impostors.

    Args:
        similarity_P: Cosine similarity of each pair.
        is_genuine_P: True where both images are of one class.

    Returns:
        eer: Equal error rate, interpolated.
        fmr100, fmr1000: Lowest FNMR at an FMR of at most 1 % and 0.1 %. Each is absent where one impostor is
            a larger share than that: below 100 and 1,000 impostors.
        fdr: `fisher_discriminant_ratio`.
        genuine_mean, genuine_std, impostor_mean, impostor_std: Of the scores; population deviations.

    Raises:
        ValueError: If there is no genuine or no impostor pair, or neither kind of score varies.
    """
    genuine, impostor = similarity_P[is_genuine_P], similarity_P[~is_genuine_P]
    metrics = {"eer": equal_error_rate(*roc(similarity_P, is_genuine_P))}
    for one_in in (100, 1000):
        if len(impostor) >= one_in:
            metrics[f"fmr{one_in}"] = 1 - tar_at_far(similarity_P, is_genuine_P, far=1 / one_in).tar
    return metrics | {
        "fdr": fisher_discriminant_ratio(genuine, impostor),
        "genuine_mean": genuine.mean().item(),
        "genuine_std": genuine.std(correction=0).item(),
        "impostor_mean": impostor.mean().item(),
        "impostor_std": impostor.std(correction=0).item(),
    }


def nearest_similarity(probe_MD: Tensor, reference_ND: Tensor) -> Tensor:
    """Highest cosine similarity of each probe to any reference, of shape (M,); both are unit embeddings."""
    return torch.cat([(probe @ reference_ND.T).amax(1) for probe in probe_MD.split(_PROBES_AT_A_TIME)])


def nearest_stranger_similarity(unit_ND: Tensor, label_N: Tensor) -> Tensor:
    """Highest cosine similarity of each image to any of another class in the same set, of shape (N,)."""
    chunks = zip(unit_ND.split(_PROBES_AT_A_TIME), label_N.split(_PROBES_AT_A_TIME), strict=True)
    return torch.cat(
        [
            (probe @ unit_ND.T).masked_fill(label[:, None] == label_N, -math.inf).amax(1)
            for probe, label in chunks
        ]
    )


def evaluate_privacy(
    embedder: nn.Module,
    authentic: LabelledImages,
    synthetic: LabelledImages,
    *,
    prefix: str = "privacy",
    teacher_digest: str | None = None,
    embedder_digest: str | None = None,
    far: float = HIT_FAR,
    num_impostors: int = NUM_IMPOSTORS,
    seed: int = 0,
    batch_size: int = 128,
) -> dict[str, float]:
    """Measures how nearly synthetic faces resemble the authentic identities that they were generated from.

    Args:
        embedder: As in `embed_images`. Not the teacher, whose errors the generated classes may have learned.
        authentic: The reference: real faces.
        synthetic: The probe; class k stands for authentic identity k.
        teacher_digest, embedder_digest: SHA-256 of either's weights, where known.
        far: False accept rate, in (0, 1), that the threshold of a hit has among the authentic impostors.
        num_impostors: Impostor pairs of each comparison, or all where there are fewer.
        seed: Of the choice of impostors.

    Returns:
        Under `<prefix>/authentic/`, `<prefix>/synthetic/` and `<prefix>/cross/`: `separation` of the scores
        among authentic faces, among synthetic ones, and of authentic against synthetic ones. Under
        `<prefix>/nearest/`:

        threshold: Cosine similarity above which two faces pass for one person at `far`.
        hit_rate: Share of synthetic faces whose nearest authentic face lies above it: looked up in the
            authentic set, they find somebody.
        stranger_hit_rate: Share of authentic faces whose nearest face of another identity does. It is
            what `hit_rate` comes to where nothing leaks: more than `far`, since every face in the set is
            another chance.

    Raises:
        InputError: If the embedder is the teacher, a set has not one label per image, a comparison lacks
            genuine or impostor pairs, or there are too few authentic impostors to measure `far`.
        DivergenceError: If an embedding is not finite.
        ValueError: If the embedder gives all pairs of a kind the same score, in both kinds of a comparison.
    """
    if teacher_digest is not None and teacher_digest == embedder_digest:
        raise InputError(
            f"the embedder of privacy must not be the teacher, both have sha256 {teacher_digest}"
        )
    for name, images in (("authentic", authentic), ("synthetic", synthetic)):
        if len(images.images) != len(images.label_N):
            raise InputError(
                f"the {name} set needs a label for each of its {len(images.images)} images, "
                f"got {len(images.label_N)}"
            )
    comparisons = {
        "authentic": pairs_within(authentic.label_N, num_impostors=num_impostors, seed=seed),
        "synthetic": pairs_within(synthetic.label_N, num_impostors=num_impostors, seed=seed),
        "cross": pairs_across(authentic.label_N, synthetic.label_N, num_impostors=num_impostors, seed=seed),
    }
    _check_pairs(comparisons, far=far)

    authentic_ND = _embedded(embedder, authentic, name="authentic", batch_size=batch_size)
    synthetic_MD = _embedded(embedder, synthetic, name="synthetic", batch_size=batch_size)
    sides = {
        "authentic": (authentic_ND, authentic_ND),
        "synthetic": (synthetic_MD, synthetic_MD),
        "cross": (authentic_ND, synthetic_MD),
    }
    scores = {name: pair_similarities(*sides[name], pairs) for name, pairs in comparisons.items()}
    threshold = tar_at_far(scores["authentic"], comparisons["authentic"].is_genuine_P, far=far).threshold
    metrics = {
        f"{name}/{metric}": value
        for name, similarity_P in scores.items()
        for metric, value in separation(similarity_P, comparisons[name].is_genuine_P).items()
    }
    strangers_N = nearest_stranger_similarity(authentic_ND, authentic.label_N)
    metrics |= {
        "nearest/threshold": threshold,
        "nearest/hit_rate": _share_above(threshold, nearest_similarity(synthetic_MD, authentic_ND)),
        "nearest/stranger_hit_rate": _share_above(threshold, strangers_N),
    }
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _embedded(embedder: nn.Module, images: LabelledImages, *, name: str, batch_size: int) -> Tensor:
    images_NCHW, _ = images.read(torch.arange(len(images.label_N)))
    unit_ND = embed_images(embedder, images_NCHW, batch_size=batch_size, faces=f"faces of the {name} set")
    return unit_ND.cpu().double()


def _share_above(threshold: float, similarity_M: Tensor) -> float:
    return (similarity_M > threshold).double().mean().item()


def _check_pairs(comparisons: dict[str, IdentityPairs], *, far: float) -> None:
    """Refuses what cannot be measured before anything is embedded, which takes long."""
    for name, pairs in comparisons.items():
        if not (pairs.num_genuine and pairs.num_impostors):
            raise InputError(
                f"the {name} comparison needs both kinds of pairs, "
                f"got {pairs.num_genuine} genuine, {pairs.num_impostors} impostor"
            )
    if not 0 < far < 1:
        raise InputError(f"far must be a fraction in (0, 1), got {far}")
    num_impostors, needed = comparisons["authentic"].num_impostors, math.ceil(1 / far - 1e-9)
    if num_impostors < needed:
        raise InputError(f"far={far:g} needs {needed:,} authentic impostor pairs, got {num_impostors:,}")


def _span_of_class(sorted_label_M: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor]:
    """Where each label's images begin and end among sorted ones, each of shape (N,)."""
    return torch.searchsorted(sorted_label_M, label_N), torch.searchsorted(
        sorted_label_M, label_N, right=True
    )


def _all_of(length_N: Tensor) -> Tensor:
    """Numbers all places of N rows of given lengths, row after row."""
    return torch.arange(int(length_N.sum()))


def _draw(length_N: Tensor, wanted: int, seed: int) -> Tensor:
    """Draws different places of N rows of given lengths, without laying them out; all if not more exist."""
    total = int(length_N.sum())
    chosen = random.Random(seed).sample(range(total), min(wanted, total))
    return torch.tensor(chosen, dtype=torch.int64)


def _in_row(place_P: Tensor, length_N: Tensor) -> tuple[Tensor, Tensor]:
    """The row of each place, and how far into its row it lies."""
    end_N = length_N.cumsum(0)
    row_P = torch.searchsorted(end_N, place_P, right=True)
    return row_P, place_P - (end_N - length_N)[row_P]


def _joined(*, genuine: tuple[Tensor, Tensor], impostors: tuple[Tensor, Tensor]) -> IdentityPairs:
    reference_P, probe_P = (torch.cat(sides) for sides in zip(genuine, impostors, strict=True))
    return IdentityPairs(
        reference_P=reference_P,
        probe_P=probe_P,
        is_genuine_P=torch.arange(len(reference_P)) < len(genuine[0]),
    )
