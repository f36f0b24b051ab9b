"""Margins of classification losses, and the one place where they are named."""

from typing import Annotated

from pydantic import Field

from distill.losses.margins.adaface import AdaFace, AdaFaceSettings
from distill.losses.margins.arcface import ArcFace, ArcFaceSettings
from distill.losses.margins.base import Margin, MarginSettings
from distill.losses.margins.cosface import CosFace, CosFaceSettings
from distill.losses.margins.curricularface import CurricularFace, CurricularFaceSettings
from distill.losses.margins.elastic import (
    ElasticArc,
    ElasticArcPlusSettings,
    ElasticArcSettings,
    ElasticCos,
    ElasticCosPlusSettings,
    ElasticCosSettings,
)
from distill.losses.margins.magface import MagFace, MagFaceSettings

AnyMarginSettings = Annotated[
    AdaFaceSettings
    | ArcFaceSettings
    | CosFaceSettings
    | CurricularFaceSettings
    | ElasticArcPlusSettings
    | ElasticArcSettings
    | ElasticCosPlusSettings
    | ElasticCosSettings
    | MagFaceSettings,
    Field(discriminator="name"),
]

__all__ = [
    "AdaFace",
    "AdaFaceSettings",
    "AnyMarginSettings",
    "ArcFace",
    "ArcFaceSettings",
    "CosFace",
    "CosFaceSettings",
    "CurricularFace",
    "CurricularFaceSettings",
    "ElasticArc",
    "ElasticArcPlusSettings",
    "ElasticArcSettings",
    "ElasticCos",
    "ElasticCosPlusSettings",
    "ElasticCosSettings",
    "MagFace",
    "MagFaceSettings",
    "Margin",
    "MarginSettings",
]
