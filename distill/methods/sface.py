"""SFace: train on the labelled classes of a conditional generator, by classification, by transfer, or both.

Boutros et al., "SFace: Privacy-friendly and Accurate Face Recognition using Synthetic Data", IJCB 2022.
https://arxiv.org/abs/2206.10520
"""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from distill.faces import AnyFacesSettings, LabelledFaces
from distill.losses import CosineSettings, LossesSettings
from distill.losses.margins import AnyMarginSettings, CosFaceSettings
from distill.methods.labelled import KAPPA, LabelledSettings


class SFaceSettings(LabelledSettings):
    """A class-conditional set, and three strategies of learning from it.

    The paper adds 10,000 times the squared error of unit embeddings to CosFace (scale 64, margin 0.35). At
    its width of 512 that is 39.06 (1 - cos), which means the same at every width.
    """

    published_losses: ClassVar[LossesSettings] = LossesSettings(cosine=CosineSettings(weight=KAPPA))
    published_margin: ClassVar[AnyMarginSettings | None] = CosFaceSettings(margin=0.35, scale=64.0)

    name: Literal["sface"] = "sface"
    num_classes: PositiveInt = 10_572
    """Classes that are drawn; 10,572 in the paper."""
    images_per_class: int = Field(default=10, ge=1, le=1000)
    """Images of each, from as many of 1,000 latents that all classes share; 10 to 60 in the paper."""

    def draw(self, faces: AnyFacesSettings) -> LabelledFaces:
        return faces.labelled(num_classes=self.num_classes, images_per_class=self.images_per_class)
