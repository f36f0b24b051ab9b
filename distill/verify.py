"""Are two images of one person? At a threshold that impostors were measured for, never at a guessed one.

A similarity means nothing by itself. The threshold is found here and now on pairs that are like the faces in
question, and the two images are embedded as those are: each with its mirror image.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from distill.errors import InputError
from distill.evaluation import embed_images, embed_pairs, pair_similarity, tar_at_far
from distill.evaluation.verification import MIN_FALSE_ACCEPTS
from distill.faces import VerificationPairs
from distill.faces.packs.images import decode_all
from distill.models import Model
from distill.teachers import EmbeddedTeacherSettings


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What became of two images.

    Attributes:
        similarity: Cosine, in [-1, 1].
        threshold: Strictly above which two images are taken for one person.
        far: Share of the impostor pairs that are accepted there: at most what was asked for.
        tar: Share of the genuine pairs that are.
        num_impostors: Impostor pairs that the threshold was measured on.
        pairs: Their name.
    """

    similarity: float
    threshold: float
    far: float
    tar: float
    num_impostors: int
    pairs: str

    @property
    def same_person(self) -> bool:
        """Whether they are taken for one person."""
        return self.similarity > self.threshold

    @property
    def is_sure_of_threshold(self) -> bool:
        """Whether enough impostor pairs lie above the threshold for it to be no matter of luck."""
        return round(self.far * self.num_impostors) >= MIN_FALSE_ACCEPTS

    def document(self) -> dict[str, Any]:
        """As plain types, for `--json`."""
        return {**asdict(self), "same_person": self.same_person}


def verify(
    network: nn.Module, first: Path, second: Path, *, pairs: VerificationPairs, far: float, size_px: int
) -> Verification:
    """Compares two images at the threshold of a false accept rate.

    Args:
        network: As in `embed_pairs`.
        pairs: What the threshold is measured on.
        far: A fraction in (0, 1).
        size_px: Side of the model's faces.

    Raises:
        InputError: If an image cannot be decoded, or `far` is finer than the pairs can tell.
        DivergenceError: If an embedding is not finite.
    """
    num_impostors = int((~pairs.is_genuine_P).sum())
    if not 0 < num_impostors < len(pairs.is_genuine_P):
        raise InputError(f"a threshold needs both kinds of pairs, {pairs.name} has one kind only")
    if math.floor(far * num_impostors + 1e-9) < 1:
        finest = math.ceil(1e7 / num_impostors) / 1e7
        raise InputError(
            f"--far must be {finest:g} or more on {pairs.name}, whose {num_impostors:,} impostor pairs tell "
            f"nothing finer, got {far:g}"
        )
    images = decode_all([(path, str(path)) for path in (first, second)], size_px=size_px)
    left_D, right_D = embed_images(network, images).double().cpu()
    similarity_P = pair_similarity(embed_pairs(network, pairs), pairs)
    point = tar_at_far(similarity_P, pairs.is_genuine_P, far=far)
    return Verification(
        similarity=(left_D @ right_D).item(),
        threshold=point.threshold,
        far=point.far,
        tar=point.tar,
        num_impostors=point.num_impostors,
        pairs=pairs.name,
    )


def usual_pairs(reference: str, model: Model) -> str:
    """The pairs that a threshold is measured on where none are named: the embedded world's, for its students.

    Args:
        reference: What the model is called.

    Raises:
        InputError: If it is not known to be of the embedded world.
    """
    if model.card is not None and model.card.teacher_digest == EmbeddedTeacherSettings().load().digest:
        return "embedded-benchmark"
    raise InputError(
        f"{reference} does not tell which pairs its threshold can be measured on: name verification pairs "
        "that are like your faces with --data"
    )
