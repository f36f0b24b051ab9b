"""Faces of a StyleGAN2 generator of your own, judged on your own verification packs."""

from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from distill.errors import InputError
from distill.faces.labelled import LabelledFaces, draw_labelled
from distill.faces.packs import PairsSettings
from distill.faces.pairs import VerificationPairs
from distill.faces.settings import FacesSettings, PairFacts
from distill.faces.stylegan2 import Crop, NoiseMode, StyleGAN2, load_generator, read_card
from distill.settings import LocalPath


class StyleGAN2FacesSettings(FacesSettings):
    """Faces that a converted StyleGAN2 draws; labelled ones where it is class-conditional."""

    draws: ClassVar[bool] = True

    name: Literal["stylegan2"] = "stylegan2"
    weights: LocalPath
    """What `distill convert` wrote: the `.safetensors` file, with its `.json` beside it."""
    psi: PositiveFloat = 1.0
    """How far latents lie from their mean, as a share: 1 leaves them, as SynthDistill does."""
    noise: NoiseMode = "random"
    """Per-pixel noise of each layer: fresh for each face, as SynthDistill has it; the stored one; or none."""
    antialias: bool = False
    """Whether faces are smoothed before they are reduced. The paper does not; from 1024 px it should be."""
    crop: Crop = "ffhq"
    """ffhq: the face is cut out of an image as FFHQ aligns it. none: the generator draws faces as they are
    aligned for recognition."""
    validation: PairsSettings
    """Pairs that trials are ranked on."""
    benchmark: PairsSettings
    """Pairs for what was selected."""

    def training_digest(self) -> str:
        return self.generator().digest

    def generator(self) -> StyleGAN2:
        return self._generator(self.size_px)

    def labelled(
        self, *, num_classes: int, images_per_class: int, authentic: bool | None = None
    ) -> LabelledFaces:
        if authentic:
            raise InputError("faces must hold photographs for the method, and those of a generator do not")
        generator = self._generator(self.sharp_px)
        if num_classes > generator.num_classes:
            raise InputError(
                f"method.num_classes must be at most the {generator.num_classes} classes of "
                f"{self.weights}, got {num_classes}"
            )
        return draw_labelled(
            generator,
            classes_C=torch.arange(num_classes),
            group_C=torch.zeros(num_classes, dtype=torch.long),
            images_per_class=images_per_class,
            authentic=False,
        )

    def mixed(
        self, *, num_classes: int, authentic_share: float, images_per_class: int, synthetic_per_class: int
    ) -> LabelledFaces:
        if authentic_share > 0:
            raise InputError(
                f"method.authentic_share must be 0 where a generator draws all faces, got {authentic_share:g}"
            )
        return self.labelled(num_classes=num_classes, images_per_class=synthetic_per_class)

    def agreement_faces(self, number: int) -> Tensor:
        return self._generator(self.sharp_px).fixed_faces(number)

    def pair_facts(self, of: Literal["validation", "benchmark"]) -> PairFacts:
        read_card(self.weights)  # what is wrong with a generator is told as early as what is with pairs
        return {"validation": self.validation, "benchmark": self.benchmark}[of].facts()

    def validation_pairs(self) -> VerificationPairs:
        return self.validation.load(name="validation", size_px=self.size_px)

    def benchmark_pairs(self) -> VerificationPairs:
        return self.benchmark.load(name="benchmark", size_px=self.size_px)

    def _generator(self, size_px: int) -> StyleGAN2:
        return load_generator(
            self.weights,
            size_px=size_px,
            psi=self.psi,
            noise=self.noise,
            antialias=self.antialias,
            crop=self.crop,
        )
