"""What a trial must be told of its faces, wherever they come from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from distill.faces.base import FaceGenerator
from distill.faces.labelled import LabelledFaces
from distill.faces.pairs import VerificationPairs
from distill.settings import Settings

MIN_SIZE_PX, MAX_SIZE_PX = 16, 112


@dataclass(frozen=True, kw_only=True)
class PairFacts:
    """What decides which metrics a set of pairs has, known without decoding an image.

    Attributes:
        group_names: Of the demographic groups; empty where there are none.
        num_impostors: Impostor pairs.
    """

    group_names: tuple[str, ...]
    num_impostors: int


class FacesSettings(Settings, ABC):
    """Settings of one source of faces. Each subclass has a `name` of its own, by which a trial chooses it."""

    draws: ClassVar[bool]
    """Whether a generator draws the training faces; otherwise they are read."""

    size_px: int = Field(default=32, ge=MIN_SIZE_PX, le=MAX_SIZE_PX)
    """Side of the student's faces, in training and evaluation."""
    captured_px: int | None = Field(default=None, ge=MIN_SIZE_PX, le=MAX_SIZE_PX)
    """Side of the photographs, at least `size_px`, that are reduced to `size_px` for the student. A method of
    paired views shows them to the teacher as they are. Unset: `size_px`, and nothing is reduced."""

    @model_validator(mode="after")
    def _nothing_is_enlarged(self) -> Self:
        if self.captured_px is not None and self.captured_px < self.size_px:
            raise ValueError(f"captured_px must be at least size_px ({self.size_px}), got {self.captured_px}")
        return self

    @property
    def sharp_px(self) -> int:
        """Side of the faces before anything is reduced."""
        return self.captured_px or self.size_px

    @abstractmethod
    def training_digest(self) -> str:
        """Hex digest of everything that decides what the training faces look like, for the record.

        Raises:
            InputError: If a file that decides it cannot be read.
        """

    @abstractmethod
    def generator(self) -> FaceGenerator | None:
        """Draws training faces of `size_px`; its identities are in neither set of pairs. None: they are read.

        Raises:
            InputError: If the generator does not load.
        """

    @abstractmethod
    def labelled(
        self, *, num_classes: int, images_per_class: int, authentic: bool | None = None
    ) -> LabelledFaces:
        """A set of training identities, of `sharp_px`.

        Args:
            num_classes: Identities; the most of them where faces are read.
            images_per_class: Of each; the most of them where faces are read.
            authentic: Whether photographs are taken; None: as the settings say.

        Raises:
            InputError: If there are no such faces, or they cannot be read.
        """

    @abstractmethod
    def mixed(
        self, *, num_classes: int, authentic_share: float, images_per_class: int, synthetic_per_class: int
    ) -> LabelledFaces:
        """A set of which a share of the identities is photographed, and the others are generated.

        No identity is in both parts. Where groups are known, the share is the same in each.

        Args:
            authentic_share: Share of the identities, in [0, 1].
            images_per_class: Of each photographed identity.
            synthetic_per_class: Of each generated one.

        Raises:
            InputError: As `labelled`.
        """

    @abstractmethod
    def agreement_faces(self, number: int) -> Tensor:
        """Faces on which student and teacher are compared: always the same, float32, of `sharp_px`.

        Raises:
            InputError: As `labelled`.
        """

    @abstractmethod
    def pair_facts(self, of: Literal["validation", "benchmark"]) -> PairFacts:
        """What is known of a set of pairs before its images are decoded.

        Raises:
            InputError: If it cannot be read.
        """

    @abstractmethod
    def validation_pairs(self) -> VerificationPairs:
        """Pairs that trials are ranked on, of `size_px`.

        Raises:
            InputError: If they cannot be read.
        """

    @abstractmethod
    def benchmark_pairs(self) -> VerificationPairs:
        """Pairs for what was selected, of `size_px`.

        Raises:
            InputError: If they cannot be read.
        """
