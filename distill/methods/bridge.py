"""Bridge distillation: adapt a teacher of sharp faces to public ones, then teach a student small ones.

Ge et al., "Efficient Low-Resolution Face Recognition via Bridge Distillation", IEEE TIP 2020.
https://arxiv.org/abs/2409.11786

The paper's text gives the two steps and their terms; their weights, the adapter's layers and the resolutions
are ours, and settings.
"""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from distill.faces import AnyFacesSettings, LabelledFaces
from distill.faces.degrade import RESOLUTIONS_PX, Degradation
from distill.losses import LossesSettings, Need, RawMSESettings
from distill.losses.margins import AnyMarginSettings, CosFaceSettings
from distill.methods.labelled import LabelledSettings
from distill.teachers.adapter import AdapterSettings, AnyAdapterSettings


class BridgeSettings(LabelledSettings):
    """The teacher sees faces of `faces.sharp_px`, the student the same faces at low resolution.

    Step 1 trains the adapter on the teacher's embeddings of the set. Step 2 trains the student by
    classification and by mimicking the adapted embedding of the sharp face.
    """

    published_losses: ClassVar[LossesSettings] = LossesSettings(raw_mse=RawMSESettings(weight=128.0))
    """The squared distance to the adapted embedding, summed over 128 dimensions, of weight 1."""
    published_margin: ClassVar[AnyMarginSettings | None] = CosFaceSettings(margin=0.2)
    """Low-resolution students learn with a small margin."""

    name: Literal["bridge"] = "bridge"
    num_classes: PositiveInt = 8_000
    """Public identities."""
    images_per_class: int = Field(default=20, ge=1, le=1000)
    """Images of each."""
    adapter: AnyAdapterSettings = AdapterSettings()
    """Step 1. `none` leaves it out: the student then mimics the teacher's raw embedding."""
    resolution: Literal["native", "mixed"] = "native"
    """native: the student's view has `faces.size_px`. mixed: it has one of 16, 24, 32, 48, 64 and 96 px, at
    most `faces.size_px`, to which it is enlarged."""

    @property
    def offers(self) -> frozenset[Need]:
        paired: frozenset[Need] = frozenset({"paired_views"})
        return super().offers | paired

    def draw(self, faces: AnyFacesSettings) -> LabelledFaces:
        return faces.labelled(num_classes=self.num_classes, images_per_class=self.images_per_class)

    def view(self, faces: AnyFacesSettings) -> Degradation:
        if self.resolution == "native":
            return Degradation(resolutions_px=(faces.size_px,), out_px=faces.size_px)
        resolutions_px = tuple(size_px for size_px in RESOLUTIONS_PX if size_px <= faces.size_px)
        return Degradation(resolutions_px=resolutions_px, out_px=faces.size_px)
