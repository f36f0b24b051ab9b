"""Converted generators on disk: `NAME.safetensors` and its card, `NAME.json`. Nothing is unpickled."""

import hashlib
from pathlib import Path

import safetensors.torch
import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from distill.errors import InputError
from distill.faces.stylegan2.generator import Crop, NoiseMode, StyleGAN2
from distill.faces.stylegan2.network import Architecture, Network
from distill.settings import Settings
from distill.weights import misfit


class GeneratorCard(Settings):
    """What a generator is, and where it comes from."""

    architecture: Architecture
    """The network that the weights fit."""
    source_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the pickle that was converted."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the weights' file."""
    licence: str | None = None
    """Under which the weights may be used; unset when it was not told, since a pickle does not say."""


def load_generator(
    path: Path,
    *,
    size_px: int,
    psi: float = 1.0,
    noise: NoiseMode = "random",
    antialias: bool = False,
    crop: Crop = "ffhq",
) -> StyleGAN2:
    """Loads a converted generator, every tensor of it, and verifies it.

    Args:
        path: The weights' file. The other arguments are those of `StyleGAN2`.

    Raises:
        InputError: If the weights or the card are missing or damaged, or are not of each other.
    """
    card = read_card(path)
    if not path.is_file():
        raise InputError(f"there is no generator {path}")
    content = path.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != card.sha256:
        raise InputError(f"{path} has sha256 {digest}, its card says {card.sha256}")
    try:
        weights = safetensors.torch.load(content)
    except SafetensorError as error:
        raise InputError(f"{path} is no safetensors file ({error})") from error
    network = fitted(weights, card.architecture, what=str(path))
    return StyleGAN2(
        network,
        sha256=card.sha256,
        size_px=size_px,
        psi=psi,
        noise=noise,
        antialias=antialias,
        crop=crop,
    )


def read_card(path: Path) -> GeneratorCard:
    """Reads the card of the generator whose weights are at `path`.

    Raises:
        InputError: If it is missing or is no such card.
    """
    card_path = path.with_suffix(".json")
    if not card_path.is_file():
        raise InputError(f"{path} is not a converted generator: there is no {card_path} beside it")
    try:
        return TypeAdapter(GeneratorCard).validate_json(card_path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{card_path} is not a generator's card: {first_error(error)}") from error


def fitted(weights: dict[str, Tensor], architecture: Architecture, *, what: str) -> Network:
    """The network around its weights, which it takes over.

    Raises:
        InputError: If there are other tensors than the network's, or they have other shapes or types.
    """
    with torch.device("meta"):
        network = Network(architecture)
    title = f"a StyleGAN2 of {architecture.resolution} px"
    if (reason := misfit(weights, network.state_dict())) is not None:
        raise InputError(f"{what} does not fit {title}: {reason}")
    for name, tensor in weights.items():
        if tensor.dtype != torch.float32:
            raise InputError(f"{what} does not fit {title}: {name} is {tensor.dtype}, expected float32")
    network.load_state_dict(weights, assign=True)
    return network


def first_error(error: ValidationError) -> str:
    """The first thing that is wrong with a set of settings, for a sentence."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".removeprefix(": ")
