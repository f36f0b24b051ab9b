"""What a file of weights shows at first sight: which network it is of, and what it tells of that network."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill.errors import InputError, TeacherError
from distill.runtimes import ExportedNetwork
from distill.teachers.pretrained.checkpoint import kind_of, read_tensors, without_prefix
from distill.teachers.pretrained.families import FAMILIES, KnownFamily, looks_ported, unknown
from distill.teachers.pretrained.onnx_facts import read_onnx_facts
from distill.teachers.pretrained.preprocessing import Facts

GraphFamily = Literal["onnx", "exported"]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a file shows before its weights are in a network.

    Attributes:
        family: Of the network that they fit, None where there is none; iresnet where it may be iresnet_mxnet.
        title: What the file looks like, for a sentence.
        known: What the file tells of the network.
        looks_ported: Whether an iresnet was not trained by arcface_torch.
    """

    family: KnownFamily | GraphFamily | None
    title: str
    known: Facts
    looks_ported: bool = False


def look_at(path: Path) -> Look:
    """What a file shows; remembered until the file changes.

    Raises:
        TeacherError: If the file is missing, damaged, nothing that holds weights, or more than tensors.
    """
    if not path.is_file():
        raise TeacherError(f"teacher.weights: there is no file {path}")
    stat = path.stat()
    return _first_look(path.absolute(), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=64)
def _first_look(path: Path, mtime_ns: int, size: int) -> Look:
    del mtime_ns, size  # they tell one content of the path from the next
    match kind_of(path):
        case "onnx":
            return Look(family="onnx", title="an ONNX graph", known=read_onnx_facts(path))
        case "exported":
            return Look(family="exported", title="a torch.export archive", known=_exported_facts(path))
    tensors = read_tensors(path)
    for name, family in FAMILIES.items():
        if weights := without_prefix(tensors, family.landmark, path):
            head = weights.get(family.head)
            return Look(
                family=name,
                title=family.title,
                known=Facts(embedding_dim=None if head is None or head.ndim == 0 else head.shape[0]),
                looks_ported=name == "iresnet" and looks_ported(weights),
            )
    return Look(family=None, title=unknown(tensors), known=Facts())


def _exported_facts(path: Path) -> Facts:
    try:
        network = ExportedNetwork(path)
    except InputError as error:
        raise TeacherError(f"teacher.weights: {error}") from error
    return Facts(size_px=network.input_px, embedding_dim=network.embedding_dim)
