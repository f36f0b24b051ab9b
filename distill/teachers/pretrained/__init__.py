"""Teachers that others trained, from the files in which they are published."""

from distill.teachers.pretrained.adaface import AdaFaceIR
from distill.teachers.pretrained.preprocessing import Facts, Preprocessed, Preprocessing
from distill.teachers.pretrained.settings import MIRROR_MARGIN, PretrainedTeacherSettings

__all__ = [
    "MIRROR_MARGIN",
    "AdaFaceIR",
    "Facts",
    "Preprocessed",
    "Preprocessing",
    "PretrainedTeacherSettings",
]
