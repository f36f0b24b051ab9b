"""Where faces come from. To add a source, name its settings in `AnyFacesSettings`."""

from typing import Annotated

from pydantic import Field

from distill.faces.base import FaceGenerator
from distill.faces.embedded import EmbeddedFacesSettings
from distill.faces.files import FilesFacesSettings
from distill.faces.generated import StyleGAN2FacesSettings
from distill.faces.labelled import LabelledFaces
from distill.faces.pairs import VerificationPairs
from distill.faces.sheet import write_contact_sheet

AnyFacesSettings = Annotated[
    EmbeddedFacesSettings | FilesFacesSettings | StyleGAN2FacesSettings,
    Field(discriminator="name", description="Where faces come from."),
]

__all__ = [
    "AnyFacesSettings",
    "EmbeddedFacesSettings",
    "FaceGenerator",
    "FilesFacesSettings",
    "LabelledFaces",
    "StyleGAN2FacesSettings",
    "VerificationPairs",
    "write_contact_sheet",
]
