"""The frozen parts of a trial, made once a process: an actor that runs many trials keeps them warm."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from distill.faces import AnyFacesSettings, FaceGenerator, VerificationPairs
from distill.faces.degrade import captured
from distill.teacher_check import check_teacher
from distill.teachers import AnyTeacherSettings, Teacher

IMAGE_LAYOUT = torch.channels_last
"""How images and weights lie in memory: with their channels together a step takes a fifth less time."""
Network = TypeVar("Network", bound=nn.Module)
AGREEMENT_FACES = 512
CHECKED_FACES = 64
"""On which a teacher shows that it knows faces."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What trials share and none changes.

    Attributes:
        generator: Makes the training faces; None where they are read.
        teacher: Is imitated.
        validation: Pairs of held-out identities, on which trials are ranked.
        agreement_faces: Faces on which student and teacher are compared, the same for all trials, as the
            teacher sees them.
        student_faces: The same, as the student sees them.
        agreement_embeddings: The teacher's, of these faces.
    """

    generator: FaceGenerator | None
    teacher: Teacher
    validation: VerificationPairs
    agreement_faces: Tensor
    student_faces: Tensor
    agreement_embeddings: Tensor


def moved(network: Network, device: torch.device) -> Network:
    """Moves a network to a device, its weights laid out as images are."""
    # The stubs of torch leave this argument out.
    return network.to(device).to(memory_format=IMAGE_LAYOUT)  # pyright: ignore[reportCallIssue]


def frozen_parts(faces: AnyFacesSettings, teacher: AnyTeacherSettings, device: torch.device) -> Parts:
    """Loads and renders the frozen parts of a trial, or returns those that this process has already."""
    key = (faces.model_dump_json(), teacher.model_dump_json(), str(device))
    if key not in _warm:
        # Parts of other trials go: a sweep over resolutions would otherwise keep every one of them.
        _warm.clear()
        _warm[key] = _make(faces, teacher, device)
    return _warm[key]


_warm: dict[tuple[str, str, str], Parts] = {}


def _make(faces: AnyFacesSettings, teacher: AnyTeacherSettings, device: torch.device) -> Parts:
    generator = faces.generator()
    loaded = moved(teacher.load(), device)
    agreement_faces = faces.agreement_faces(AGREEMENT_FACES).to(device)
    check_teacher(teacher, loaded, agreement_faces[:CHECKED_FACES])
    reduces = faces.sharp_px != faces.size_px
    return Parts(
        generator=None if generator is None else generator.to(device),
        teacher=loaded,
        validation=faces.validation_pairs(),
        agreement_faces=agreement_faces,
        student_faces=captured(agreement_faces, faces.size_px) if reduces else agreement_faces,
        agreement_embeddings=loaded(agreement_faces),
    )
