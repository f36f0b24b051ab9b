"""Distillation methods, and the one place where they are named."""

from typing import Annotated

from pydantic import Field

from distill.methods.base import Batch, Method, MethodContext, MethodSettings, Shard
from distill.methods.bridge import BridgeSettings
from distill.methods.fair_kd import FairKDSettings
from distill.methods.labelled import LabelledDistillation, LabelledSettings
from distill.methods.sface import SFaceSettings
from distill.methods.synthdistill import SynthDistill, SynthDistillSettings, resampling_radius

AnyMethodSettings = Annotated[
    SynthDistillSettings | SFaceSettings | FairKDSettings | BridgeSettings, Field(discriminator="name")
]

__all__ = [
    "AnyMethodSettings",
    "Batch",
    "BridgeSettings",
    "FairKDSettings",
    "LabelledDistillation",
    "LabelledSettings",
    "Method",
    "MethodContext",
    "MethodSettings",
    "SFaceSettings",
    "Shard",
    "SynthDistill",
    "SynthDistillSettings",
    "resampling_radius",
]
