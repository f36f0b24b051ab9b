"""Distillation methods, and the one place where they are named."""

from distill.methods.base import Batch, Method, MethodSettings, Shard
from distill.methods.synthdistill import SynthDistill, SynthDistillSettings, resampling_radius

AnyMethodSettings = SynthDistillSettings

__all__ = [
    "AnyMethodSettings",
    "Batch",
    "Method",
    "MethodSettings",
    "Shard",
    "SynthDistill",
    "SynthDistillSettings",
    "resampling_radius",
]
