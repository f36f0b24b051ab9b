"""TinyFaR: the students of SynthDistill, TinyNets with a linear head.

Otroshi Shahreza et al., "SynthDistill", IJCB 2023. https://arxiv.org/abs/2308.14852
Han et al., "Model Rubik's Cube: Twisting Resolution, Depth and Width for TinyNets", NeurIPS 2020.
https://arxiv.org/abs/2010.14819

The TinyNets are timm's, an optional extra that is imported when a student is built. State dictionaries have
the prefixes of the released checkpoints, `cnn.` and `fc.`.
"""

from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from distill.errors import InputError
from distill.settings import LocalPath
from distill.students.base import StudentSettings

NUM_FEATURES = 1280


class TinyFaR(nn.Module):
    """A TinyNet's pooled features and a linear layer, for faces of any size.

    5,562,844, 3,105,434 and 1,832,106 parameters in the variants a, b and c with D = 512; they take 126.8,
    75.5 and 38.2 M multiply-adds at 112 px. The first weights are timm's own random ones.

    Raises:
        InputError: If timm cannot be imported.
    """

    stage_names = ("cnn.blocks.1", "cnn.blocks.2", "cnn.blocks.4", "cnn.blocks.6")

    def __init__(self, *, variant: str, embedding_dim: int):
        super().__init__()
        self.cnn: nn.Module = _timm().create_model(f"tinynet_{variant}", pretrained=False, num_classes=0)
        self.fc = nn.Linear(NUM_FEATURES, embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H) in [-1, 1] as raw embeddings of shape (B, D)."""
        return self.fc(self.cnn(images))


class TinyFaRSettings(StudentSettings):
    """TinyFaR-A, B or C: 5.1, 2.6 or 1.3 M parameters with D = 128. Needs timm."""

    name: Literal["tinyfar"] = "tinyfar"
    variant: Literal["a", "b", "c"] = "c"
    """Which TinyNet: a is the largest."""
    weights: LocalPath | None = None
    """ImageNet weights of the TinyNet to start from, a safetensors file or a .pth file of tensors. Unset: it
    starts from scratch. Nothing is downloaded."""

    @property
    def init(self) -> Literal["scratch", "imagenet"]:
        """What the student starts from, for the record: a paper's students that start from ImageNet are not
        trained on synthetic faces alone."""
        return "scratch" if self.weights is None else "imagenet"

    def build(self, *, embedding_dim: int, size_px: int) -> TinyFaR:
        """Makes the network, and loads `weights` where they are set. On the meta device none are read.

        Raises:
            InputError: If timm cannot be imported, or `weights` cannot be read or are another network's.
        """
        del size_px  # the pool takes any
        network = TinyFaR(variant=self.variant, embedding_dim=embedding_dim)
        if self.weights is not None and not network.fc.weight.is_meta:
            _load_features(network.cnn, self.weights, name=f"tinynet_{self.variant}")
        return network


def _timm() -> ModuleType:
    """timm, or a sentence on how to get it."""
    try:
        return import_module("timm")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision for another torch
        raise InputError(
            "student.name tinyfar needs timm, which cannot be imported here "
            f"({str(error).splitlines()[0]}): pip install 'face-distillation-sweeps[timm]'"
        ) from error


def _load_features(network: nn.Module, path: Path, *, name: str) -> None:
    """Loads the weights of a TinyNet less its classifier."""
    weights = {key: tensor for key, tensor in _read(path).items() if not key.startswith("classifier.")}
    expected, found = _shapes(network.state_dict()), _shapes(weights)
    if odd := sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)):
        raise InputError(
            f"student.weights must be those of {name}, but {len(odd)} tensors of {path} are not, among them "
            f"{odd[0]}"
        )
    network.load_state_dict(weights)


def _read(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file, by name. Nothing but tensors is unpickled."""
    if not path.is_file():
        raise InputError(f"student.weights: there is no file {path}")
    try:
        weights: Any
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, EOFError, RuntimeError) as error:
        raise InputError(
            "student.weights must be a safetensors file or a .pth file of tensors alone, whole and readable, "
            f"{path} is not"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"student.weights must name a tensor by each of its keys, {path} does not")
    return weights


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    """Shapes by name, less the counters that old files have not."""
    return {key: value.shape for key, value in state.items() if not key.endswith("num_batches_tracked")}
