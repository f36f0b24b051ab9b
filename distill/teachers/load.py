"""Reading a teacher's file: whole, and the one that was named, or not at all."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from distill.errors import TeacherError
from distill.weights import misfit


def load_weights(network: nn.Module, path: Path, *, sha256: str) -> None:
    """Loads every tensor of a safetensors file into `network`.

    Raises:
        TeacherError: If the file is missing, is cut short or no safetensors file, is not the one that
            `sha256` names, or has other tensors or shapes than `network`.
    """
    if not path.is_file():
        raise TeacherError(f"teacher.weights: there is no file {path}")
    content = path.read_bytes()
    try:
        weights = safetensors.torch.load(content)
    except SafetensorError as error:
        raise TeacherError(
            f"teacher.weights: {path} is cut short or is no safetensors file ({error})"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise TeacherError(f"teacher.sha256: {path} has {digest}, expected {sha256}")
    fill(network, weights, path)


def fill(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Loads tensors into `network`, all of them and no others.

    Args:
        path: Where they come from, for the error.

    Raises:
        TeacherError: If `network` has other tensors or shapes.
    """
    if (reason := misfit(weights, network.state_dict())) is not None:
        raise TeacherError(f"teacher.weights: {path} does not fit {type(network).__name__}: {reason}")
    network.load_state_dict(weights)


def read_card(path: Path) -> dict[str, Any]:
    """Reads the card of a teacher: a JSON object that holds at least its weights' `sha256`.

    Raises:
        TeacherError: If the file is missing or is no such card.
    """
    if not path.is_file():
        raise TeacherError(f"teacher.sha256 must be given for weights without a card, and there is no {path}")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TeacherError(f"teacher.weights: the card {path} is no JSON ({error})") from error
    if not isinstance(card, dict) or not isinstance(card.get("sha256"), str):
        raise TeacherError(f"teacher.weights: the card {path} names no sha256")
    return card
