"""Fair KD: authentic, synthetic and mixed faces, with a teacher and without, judged group by group.

Neto et al., "How Knowledge Distillation Mitigates the Synthetic Gap in Fair Face Recognition", ECCV Workshops
2024. https://arxiv.org/abs/2408.17399

The authors mirror authentic faces only, and cache the teacher's embeddings of unmirrored ones. Here every
face may be mirrored, whatever its source, and the teacher sees what the student sees.
"""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from distill.faces import AnyFacesSettings, LabelledFaces
from distill.losses import CosineSettings, LossesSettings
from distill.losses.margins import AnyMarginSettings, ElasticArcSettings
from distill.methods.labelled import KAPPA, LabelledSettings


class FairKDSettings(LabelledSettings):
    """A set of which a share is authentic, the same share in every demographic group.

    The published weight, 10,000 times the squared error of unit embeddings of width 512, is 39.06 (1 - cos).
    """

    published_losses: ClassVar[LossesSettings] = LossesSettings(cosine=CosineSettings(weight=KAPPA))
    published_margin: ClassVar[AnyMarginSettings | None] = ElasticArcSettings()

    name: Literal["fair_kd"] = "fair_kd"
    num_classes: PositiveInt = 28_000
    """Identities, authentic and synthetic ones together; no identity is both."""
    images_per_class: int = Field(default=45, ge=1, le=1000)
    """Images of each authentic identity."""
    synthetic_images_per_class: int | None = Field(default=None, ge=1, le=1000)
    """Images of each synthetic identity. Unset: as many as of an authentic one."""
    authentic_share: float = Field(default=0.7, ge=0.0, le=1.0)
    """Share of the set that is authentic; about 0.7 in the paper's mix."""
    mix_by: Literal["identities", "images"] = "identities"
    """What `authentic_share` is a share of. They differ where the two kinds have unequal images a class."""

    def draw(self, faces: AnyFacesSettings) -> LabelledFaces:
        return faces.mixed(
            num_classes=self.num_classes,
            authentic_share=self.share_of_identities(),
            images_per_class=self.images_per_class,
            synthetic_per_class=self._synthetic_per_class,
        )

    def share_of_identities(self) -> float:
        """Which share of the identities is authentic."""
        if self.mix_by == "identities":
            return self.authentic_share
        authentic = self.authentic_share / self.images_per_class
        synthetic = (1 - self.authentic_share) / self._synthetic_per_class
        return authentic / (authentic + synthetic)

    def fewest_images_per_class(self) -> int:
        return min(self.images_per_class, self._synthetic_per_class)

    @property
    def _synthetic_per_class(self) -> int:
        return self.synthetic_images_per_class or self.images_per_class
