"""Is a teacher what it is held for? Wrong weights, pixels or colours raise no error: they teach nonsense.

N: faces, D: width of the embedding
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import TeacherError
from distill.evaluation import embed_pairs, pair_similarity, ten_fold
from distill.faces.packs import PairsSettings
from distill.teachers import AnyTeacherSettings, EnsembleTeacherSettings, PretrainedTeacherSettings, Teacher
from distill.teachers.ensemble import EnsembleTeacher
from distill.teachers.pretrained import MIRROR_MARGIN


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What a teacher showed of itself.

    Attributes:
        teacher: Its name.
        mirror_similarity: Mean cosine of a face and its mirror image.
        stranger_similarity: Mean cosine of two faces of the set.
        verification_accuracy: Ten-fold, a fraction; None where no pairs are named.
    """

    teacher: str
    mirror_similarity: float
    stranger_similarity: float
    verification_accuracy: float | None


def check_teacher(settings: AnyTeacherSettings, teacher: Teacher, images_NCHW: Tensor) -> list[SelfTest]:
    """The `self_test` of every teacher that others trained, as its settings ask for it.

    Those that were made here were measured when they were made, and are not tested again.

    Args:
        settings: Those that `teacher` was loaded by.
        images_NCHW: As `self_test` takes them.

    Raises:
        TeacherError: If a teacher fails.
        InputError: If verification pairs cannot be read.
    """
    if isinstance(settings, EnsembleTeacherSettings) and isinstance(teacher, EnsembleTeacher):
        members = zip(settings.members, teacher.members, strict=True)
        return [test for member, loaded in members for test in check_teacher(member, loaded, images_NCHW)]
    if isinstance(settings, PretrainedTeacherSettings):
        return [
            self_test(
                teacher,
                images_NCHW,
                verification=settings.verification,
                verification_at_least=settings.verification_at_least,
                margin=settings.mirror_margin,
            )
        ]
    return []


def self_test(
    teacher: Teacher,
    images_NCHW: Tensor,
    *,
    verification: PairsSettings | None = None,
    verification_at_least: float | None = None,
    margin: float = MIRROR_MARGIN,
    batch_size: int = 64,
) -> SelfTest:
    """Asks of a teacher what every trained recogniser can do.

    Its embeddings are finite, as wide as it promised and not all the same; a face is more like its mirror
    image than like other faces, by `margin`; and it tells pairs apart, where some are named.

    Args:
        images_NCHW: Two faces or more, float32, RGB in [-1, 1], on the teacher's device; mostly of different
            people.
        verification: Pairs to tell apart.
        verification_at_least: The ten-fold accuracy that must be reached on them.
        margin: In cosine.

    Raises:
        TeacherError: If it fails, with the numbers.
        InputError: If the pairs cannot be read.
        ValueError: If there are fewer than two faces.
    """
    if len(images_NCHW) < 2:
        raise ValueError(f"images_NCHW must hold at least 2 faces, got {len(images_NCHW)}")
    batches = images_NCHW.split(batch_size)
    embedding_ND = torch.cat([teacher(images) for images in batches])
    mirrored_ND = torch.cat([teacher(images.flip(-1)) for images in batches])
    expected = (len(images_NCHW), teacher.embedding_dim)
    if embedding_ND.shape != expected:
        raise TeacherError(
            f"teacher {teacher.name} gives embeddings of shape {tuple(embedding_ND.shape)}, "
            f"promised {expected}"
        )
    if not (embedding_ND.isfinite().all() and mirrored_ND.isfinite().all()):
        raise TeacherError(f"teacher {teacher.name} gives embeddings that are not finite")
    if torch.allclose(embedding_ND, embedding_ND[:1]):
        raise TeacherError(f"teacher {teacher.name} gives the same embedding to all of {expected[0]} faces")
    mirror, stranger = _mirror_and_stranger(embedding_ND.double(), mirrored_ND.double())
    if mirror - stranger < margin:
        raise TeacherError(
            f"teacher {teacher.name} finds a face like its mirror image by {mirror:.2f} and like others by "
            f"{stranger:.2f}, which must differ by {margin}: its preprocessing or its weights are wrong"
        )
    accuracy = None if verification is None else _accuracy(teacher, verification)
    if accuracy is not None and verification_at_least is not None and accuracy < verification_at_least:
        assert verification is not None
        raise TeacherError(
            f"teacher.verification_at_least: {teacher.name} judges {accuracy:.2%} of {verification.path} "
            f"rightly, less than {verification_at_least:.2%}"
        )
    return SelfTest(
        teacher=teacher.name,
        mirror_similarity=mirror,
        stranger_similarity=stranger,
        verification_accuracy=accuracy,
    )


def _mirror_and_stranger(embedding_ND: Tensor, mirrored_ND: Tensor) -> tuple[float, float]:
    """Mean cosine of faces with their mirror images, and of all pairs of different faces."""
    unit_ND = F.normalize(embedding_ND)
    num_faces = len(unit_ND)
    mirror = F.cosine_similarity(embedding_ND, mirrored_ND).mean()
    stranger = (unit_ND.sum(0).square().sum() - num_faces) / (num_faces * (num_faces - 1))
    return mirror.item(), stranger.item()


def _accuracy(teacher: Teacher, verification: PairsSettings) -> float:
    pairs = verification.load(name="self_test", size_px=teacher.input_px)
    distance_P = 2 - 2 * pair_similarity(embed_pairs(teacher, pairs), pairs)
    return ten_fold(distance_P, pairs.is_genuine_P).accuracy
