"""Your own faces: training images from packs, folders and manifests, judged on your own verification packs.

N: images, C: classes
"""

from functools import lru_cache
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from distill.errors import InputError
from distill.faces.labelled import LabelledFaces
from distill.faces.packs import MIN_PEOPLE, PairsSettings, held_out_facts, held_out_pairs
from distill.faces.pairs import VerificationPairs
from distill.faces.pixels import as_floats
from distill.faces.settings import FacesSettings, PairFacts
from distill.faces.stored import SourceSettings, mix, open_source, subset


class FilesFacesSettings(FacesSettings):
    """Faces that are read: InsightFace packs, folders of identities, manifests, and mixes of them."""

    draws: ClassVar[bool] = False

    name: Literal["files"] = "files"
    training: tuple[SourceSettings, ...] = Field(min_length=1)
    """Where training faces are read from. An identity belongs to one source: equal names in two are two
    people."""
    validation: PairsSettings | None = None
    """Pairs that trials are ranked on. Unset: they are drawn from `held_out_share` of the identities, which
    are then not trained on."""
    held_out_share: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Share of the identities that validation pairs are drawn from where `validation` is unset."""
    benchmark: PairsSettings
    """Pairs for what was selected."""

    @model_validator(mode="after")
    def _shares_are_of_one_whole(self) -> Self:
        shares = [source.share for source in self.training if source.share is not None]
        if shares and (len(shares) < len(self.training) or abs(sum(shares) - 1) > 1e-6):
            raise ValueError(
                f"training must give every source a share, or none, and they sum to 1, got {shares}"
            )
        return self

    def training_digest(self) -> str:
        return self._training().digest

    def generator(self) -> None:
        return None

    def labelled(
        self, *, num_classes: int, images_per_class: int, authentic: bool | None = None
    ) -> LabelledFaces:
        faces = self._training()
        if authentic is None:
            return _cut(faces, torch.ones_like(faces.authentic_N), num_classes, images_per_class)
        return _cut(faces, faces.authentic_N == authentic, num_classes, images_per_class)

    def mixed(
        self, *, num_classes: int, authentic_share: float, images_per_class: int, synthetic_per_class: int
    ) -> LabelledFaces:
        faces = self._training()
        kinds = {
            True: (authentic_share, images_per_class),
            False: (1 - authentic_share, synthetic_per_class),
        }
        have = {kind: _num_classes(faces, faces.authentic_N == kind) for kind in kinds}
        for kind, (share, _) in kinds.items():
            if share > 0 and have[kind] == 0:
                raise InputError(
                    f"faces.training must hold a source with `authentic: {str(kind).lower()}` for an "
                    f"authentic share of {authentic_share:g}, and has none"
                )
        total = min([num_classes, *(int(have[kind] / share) for kind, (share, _) in kinds.items() if share)])
        keep_N = torch.zeros_like(faces.authentic_N)
        for kind, (share, images) in kinds.items():
            keep_N |= _chosen(faces, faces.authentic_N == kind, round(share * total), images)
        return subset(faces, keep_N)

    def agreement_faces(self, number: int) -> Tensor:
        return as_floats(self._validation(self.sharp_px).images_NCHW[:number])

    def pair_facts(self, of: Literal["validation", "benchmark"]) -> PairFacts:
        if of == "benchmark":
            return self.benchmark.facts()
        if self.validation is not None:
            return self.validation.facts()
        held_out = self._held_out()
        return held_out_facts(held_out.label_N, held_out.group_N, held_out.group_names, name="validation")

    def validation_pairs(self) -> VerificationPairs:
        return self._validation(self.size_px)

    def benchmark_pairs(self) -> VerificationPairs:
        return self.benchmark.load(name="benchmark", size_px=self.size_px)

    def _training(self) -> LabelledFaces:
        """Every image that may be trained on."""
        faces = _opened(self.training, self.sharp_px)
        return (
            faces if self.validation is not None else subset(faces, ~_is_held_out(faces, self.held_out_share))
        )

    def _held_out(self) -> LabelledFaces:
        faces = _opened(self.training, self.sharp_px)
        return subset(faces, _is_held_out(faces, self.held_out_share))

    def _validation(self, size_px: int) -> VerificationPairs:
        if self.validation is not None:
            return self.validation.load(name="validation", size_px=size_px)
        return held_out_pairs(self._held_out(), name="validation", size_px=size_px)


@lru_cache(maxsize=2)
def _opened(sources: tuple[SourceSettings, ...], size_px: int) -> LabelledFaces:
    """All images of the sources. Kept: a pack of millions takes seconds to open, and every trial asks."""
    return mix(
        [open_source(source, size_px=size_px) for source in sources], [source.share for source in sources]
    )


def _is_held_out(faces: LabelledFaces, share: float) -> Tensor:
    """Whether each image is of an identity that is kept for validation, bool, (N,).

    It is the share of each group, and at least as many as the pairs of a group need.
    """
    group_C = faces.group_N[faces.first_images]
    held_out_C = torch.zeros(faces.num_classes, dtype=torch.bool)
    for group in group_C.unique():
        members = (group_C == group).nonzero().squeeze(1)
        number = max(MIN_PEOPLE, round(share * len(members)))
        held_out_C[members[_shuffled(len(members))[:number]]] = True
    return held_out_C[faces.label_N]


def _cut(faces: LabelledFaces, among_N: Tensor, num_classes: int, images_per_class: int) -> LabelledFaces:
    """At most so many classes, and so many images of each, of those marked."""
    if not among_N.any():
        raise InputError("faces.training holds no faces of the kind that the method asks for")
    return subset(faces, _chosen(faces, among_N, num_classes, images_per_class))


def _chosen(faces: LabelledFaces, among_N: Tensor, num_classes: int, images_per_class: int) -> Tensor:
    """Marks the first images of classes that a fixed shuffle chooses from those marked, bool, (N,)."""
    classes = faces.label_N[among_N].unique()
    chosen_C = torch.zeros(faces.num_classes, dtype=torch.bool)
    chosen_C[classes[_shuffled(len(classes))[:num_classes]]] = True
    place_N = torch.arange(len(faces)) - faces.first_images[faces.label_N]
    return chosen_C[faces.label_N] & (place_N < images_per_class)


def _num_classes(faces: LabelledFaces, among_N: Tensor) -> int:
    return len(faces.label_N[among_N].unique())


def _shuffled(number: int) -> Tensor:
    """An order that is always the same: sources follow each other, and every choice should meet them all."""
    return torch.randperm(number, generator=torch.Generator().manual_seed(0))
