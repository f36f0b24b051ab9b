"""The tensors of a stranger's file, read without executing anything of it.

What is read: state dictionaries by torch.save, old and new, and safetensors; plain, or inside of a trainer's
checkpoint. ONNX graphs and torch.export archives are only recognised. What else is met under the name of
weights is told by name.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.serialization import safe_globals

from distill.errors import TeacherError
from distill.file_kinds import known_kind, looks_like, opening
from distill.weights import some

Kind = Literal["torch", "safetensors", "onnx", "exported"]

WRAPPINGS = ("state_dict_backbone", "state_dict")
"""Where trainers keep the network: arcface_torch's, and Lightning's."""

LEGACY_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


class _Inert:
    """Stands for a class whose name a checkpoint mentions and whose objects nobody looks at."""

    def __init__(self, *_: Any):
        pass


INERT = tuple(
    (_Inert, name)
    for name in (
        # Lightning files the state of its callbacks under their classes; AdaFace's checkpoints have one.
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
        "argparse.Namespace",
    )
)


def kind_of(path: Path) -> Kind:
    """What a file is, by its first bytes and, in an archive, the names of its members.

    Raises:
        TeacherError: If it is nothing that holds weights.
    """
    head = opening(path)
    # Before its JSON stands its length, whose bytes may be those of any other kind.
    if head[8:10] == b'{"':
        return "safetensors"
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    if head.startswith(LEGACY_TORCH):
        return "torch"
    if head.startswith(PICKLES):
        raise TeacherError(
            f"teacher.weights: {path} looks like a pickle that torch.save did not write, which is not opened"
        )
    if known_kind(head) is None and (head.startswith(b"\x08") or path.suffix == ".onnx"):
        return "onnx"
    raise TeacherError(f"teacher.weights: {path} holds no weights: it looks like {looks_like(path)}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a state dictionary, on the CPU; of a large file they stay on disk until used.

    Raises:
        TeacherError: If the file is damaged, holds anything that only unpickling could make, or is not of
            one network.
    """
    if kind_of(path) == "safetensors":
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise TeacherError(f"teacher.weights: {path} is cut short or damaged ({error})") from error
    return _state_dict(_load(path), path)


def without_prefix(tensors: Mapping[str, Tensor], landmark: str, path: Path) -> dict[str, Tensor]:
    """The tensors of the network that has a tensor called `landmark`, by their names in it.

    A trainer's prefix (`module.`, `model.`) is whatever stands before `landmark`; without one, every tensor
    of the file is the network's. Empty if no name ends with `landmark`.

    Raises:
        TeacherError: If there are several such networks.
    """
    prefixes = [
        name.removesuffix(landmark) for name in tensors if name == landmark or name.endswith(f".{landmark}")
    ]
    if not prefixes:
        return {}
    if len(prefixes) > 1:
        raise TeacherError(f"teacher.weights: {path} holds several networks: {some(sorted(prefixes))}")
    (prefix,) = prefixes
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _kind_of_zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise TeacherError(f"teacher.weights: {path} is cut short or damaged ({error})") from error
    members = {name.partition("/")[2] or name for name in names}
    if {"models/model.json", "model.json", "serialized_exported_program.json"} & members:
        return "exported"
    if "constants.pkl" in members:
        raise TeacherError(
            f"teacher.weights: {path} looks like a TorchScript archive, which is code: "
            "save the state dictionary of its network instead"
        )
    if "data.pkl" in members:
        return "torch"
    raise TeacherError(
        f"teacher.weights: {path} looks like a zip archive that holds {some(sorted(names))}: unpack it first"
    )


def _load(path: Path) -> Any:
    """What torch.save wrote, as far as it is tensors and plain types."""
    try:
        with safe_globals(list(INERT)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged file may raise anything
        refused = (
            re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        )
        if refused is None:
            raise TeacherError(
                f"teacher.weights: {path} is cut short or damaged ({reason(error)})"
            ) from error
        raise TeacherError(
            f"teacher.weights: {path} is refused, since reading it would execute {refused[1]}: "
            "if you trust it, torch.save its network's state dictionary alone, on a machine of no worth"
        ) from None


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Tensor):
        content = {"weight": content}
    if not isinstance(content, dict):
        raise TeacherError(f"teacher.weights: {path} holds no network but {type(content).__name__}")
    if "param_groups" in content:
        raise TeacherError(f"teacher.weights: {path} looks like the state of an optimizer")
    wrapped = next((content[name] for name in WRAPPINGS if isinstance(content.get(name), dict)), content)
    others = [str(name) for name, value in wrapped.items() if not isinstance(value, Tensor)]
    if others or not wrapped:
        raise TeacherError(
            f"teacher.weights: {path} looks like a checkpoint in which no network is found: it holds "
            f"{some(sorted(others))}"
        )
    return {str(name): tensor for name, tensor in wrapped.items()}


def reason(error: Exception) -> str:
    """The first line of what an error says, for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
