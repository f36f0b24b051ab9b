"""Frozen networks to imitate. To add one, name its settings in `AnyTeacherSettings`."""

from typing import Annotated

from pydantic import Field

from distill.teachers.base import Teacher
from distill.teachers.embedded import EmbeddedTeacherSettings
from distill.teachers.recipe import train_embedded_teacher

AnyTeacherSettings = Annotated[
    EmbeddedTeacherSettings,
    Field(description="The frozen network that is imitated."),
]

__all__ = ["AnyTeacherSettings", "EmbeddedTeacherSettings", "Teacher", "train_embedded_teacher"]
