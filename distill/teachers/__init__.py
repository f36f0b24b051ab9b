"""Frozen networks to imitate. To add one, name its settings in `AnyTeacherSettings`."""

from typing import Annotated

from pydantic import Field

from distill.teachers.base import Teacher
from distill.teachers.distilled import DistilledTeacherSettings
from distill.teachers.embedded import EmbeddedTeacherSettings
from distill.teachers.ensemble import EnsembleTeacherSettings
from distill.teachers.pretrained import PretrainedTeacherSettings
from distill.teachers.recipe import train_embedded_teacher, train_specialist_teacher
from distill.teachers.specialist import SpecialistTeacherSettings

AnyTeacherSettings = Annotated[
    EmbeddedTeacherSettings
    | PretrainedTeacherSettings
    | DistilledTeacherSettings
    | SpecialistTeacherSettings
    | EnsembleTeacherSettings,
    Field(discriminator="name", description="The frozen network that is imitated."),
]

__all__ = [
    "AnyTeacherSettings",
    "DistilledTeacherSettings",
    "EmbeddedTeacherSettings",
    "EnsembleTeacherSettings",
    "PretrainedTeacherSettings",
    "SpecialistTeacherSettings",
    "Teacher",
    "train_embedded_teacher",
    "train_specialist_teacher",
]
