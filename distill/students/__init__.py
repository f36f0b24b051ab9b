"""Students, and the one place where they are named."""

from typing import Annotated

from pydantic import Field

from distill.students.base import StudentSettings
from distill.students.bridge import BridgeTiny, BridgeTinySettings
from distill.students.edgeface import EdgeFace, EdgeFaceSettings
from distill.students.ghostfacenet import GhostFaceNet, GhostFaceNetSettings
from distill.students.iresnet import IResNet, IResNetSettings, IResNetSmallSettings
from distill.students.mbf import Mbf, MbfSettings
from distill.students.mobilefacenet import MobileFaceNet, MobileFaceNetSettings
from distill.students.pocketnet import PocketNet, PocketNetSettings
from distill.students.searchable import SearchableSettings, SearchableStudent
from distill.students.tinyfar import TinyFaR, TinyFaRSettings

AnyStudentSettings = Annotated[
    BridgeTinySettings
    | EdgeFaceSettings
    | GhostFaceNetSettings
    | IResNetSettings
    | IResNetSmallSettings
    | MbfSettings
    | MobileFaceNetSettings
    | PocketNetSettings
    | SearchableSettings
    | TinyFaRSettings,
    Field(discriminator="name"),
]

__all__ = [
    "AnyStudentSettings",
    "BridgeTiny",
    "BridgeTinySettings",
    "EdgeFace",
    "EdgeFaceSettings",
    "GhostFaceNet",
    "GhostFaceNetSettings",
    "IResNet",
    "IResNetSettings",
    "IResNetSmallSettings",
    "Mbf",
    "MbfSettings",
    "MobileFaceNet",
    "MobileFaceNetSettings",
    "PocketNet",
    "PocketNetSettings",
    "SearchableSettings",
    "SearchableStudent",
    "StudentSettings",
    "TinyFaR",
    "TinyFaRSettings",
]
