"""From NVIDIA's pickles to safetensors, without executing anything of them.

Such a pickle is a dict whose `G_ema` is the generator. Each part of it carries the source text of its Python
module, which a usual reader executes. Here a part is only read as its class's name and its state: source text
is dropped, whatever it says.
"""

import hashlib
import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from distill.errors import InputError
from distill.faces.stylegan2.load import GeneratorCard, first_error, fitted
from distill.faces.stylegan2.network import Architecture
from distill.file_kinds import looks_like
from distill.unpickling import Allowed, load_pickle

MAX_SOURCE_BYTES = 2 * 1024**3  # the largest that NVIDIA published has 0.4 GB
MAX_PARTS = 1000  # a StyleGAN2 of 1024 px has about 90

BUILT_AS: dict[str, dict[str, Any]] = {
    "SynthesisBlock": {"architecture": "skip"},
    "SynthesisLayer": {"activation": "lrelu", "use_noise": True},
}
"""State, by class, that changes what the tensors mean without changing their shapes."""


def convert(source: Path, out: Path, *, sha256: str | None = None, licence: str | None = None) -> Path:
    """Converts the generator of a StyleGAN2 pickle for `load_generator`.

    Reads what the PyTorch versions of StyleGAN2-ADA and StyleGAN3 write. Needs memory for about three times
    the file.

    Args:
        source: The pickle.
        out: Where `OUT.safetensors` and `OUT.json` are written; both are replaced.
        sha256: Digest that the pickle must have, in hex.
        licence: Of the weights, for the record.

    Returns:
        The weights' file.

    Raises:
        ForbiddenGlobalError: If the pickle asks for anything that such pickles need not. Nothing of it was
            called.
        InputError: If the pickle is missing, damaged, too large, not the one that was named, or holds no
            StyleGAN2.
    """
    content = _read(source)
    source_sha256 = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, source_sha256):
        raise InputError(f"{source} has sha256 {source_sha256}, expected {sha256}")
    try:
        snapshot = load_pickle(io.BytesIO(content), allowed=ALLOWED, what=str(source))
    except _MadeByTensorFlowError:
        raise InputError(
            f"{source} is of a TensorFlow version of StyleGAN: it must first become one of the PyTorch "
            f"version, by the legacy.py of NVIDIA's stylegan2-ada-pytorch"
        ) from None
    if not isinstance(snapshot, dict) or not isinstance(snapshot.get("G_ema"), _Module):
        raise InputError(f"{source} holds no G_ema, the generator of a StyleGAN2 pickle")
    try:
        parts = _parts(snapshot["G_ema"])
        _check_classes(parts, what=str(source))
        architecture, tensors = _architecture(parts), _tensors(parts)
    except ValidationError as error:
        raise InputError(f"{source} holds a StyleGAN2 that cannot be built: {first_error(error)}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{source} holds a damaged network ({type(error).__name__}: {error})") from error
    fitted(tensors, architecture, what=str(source))

    # Copied, because tensors of a pickle may share their memory, which safetensors refuses.
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    weights = safetensors.torch.save(copies)
    card = GeneratorCard(
        architecture=architecture,
        source_sha256=source_sha256,
        sha256=hashlib.sha256(weights).hexdigest(),
        licence=licence,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(out.name + ".safetensors")
    _write(path, weights)
    _write(path.with_suffix(".json"), card.model_dump_json(indent=2).encode())
    return path


# ---- reading the pickle ------------------------------------------------------------------------------------


class _Module(NamedTuple):
    """A part of a network, as far as it is read."""

    class_name: str
    state: dict[str, Any]


class _EasyDict(dict[str, Any]):
    """Stands for NVIDIA's dict whose items are attributes."""


class _Dropped:
    """Stands for NumPy's objects. They hold nothing that is needed, so nothing of them is kept."""

    def __init__(self, *arguments: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _MadeByTensorFlowError(InputError):
    """A pickle is of the versions before PyTorch."""


class _TensorFlowNetwork:
    """Stands for the networks of the versions before PyTorch."""

    def __new__(cls, *arguments: object) -> NoReturn:
        raise _MadeByTensorFlowError


def _module(meta: dict[str, Any]) -> _Module:
    return _Module(class_name=meta["class_name"], state=meta["state"])


def _storage(content: bytes) -> Tensor:
    """Reads a storage as a vector."""
    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise TypeError(f"expected a storage, got {type(storage).__name__}")
    return torch.empty(0, dtype=storage.dtype).set_(storage)  # pyright: ignore[reportArgumentType]


def _tensor(
    vector: Tensor, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    return vector.as_strided(shape, stride, offset)  # which refuses to leave the storage


def _parameter(tensor: Tensor, *_: object) -> Tensor:
    return tensor


ALLOWED: Allowed = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _module,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,  # which pickles before protocol 4 write as a call
    ("dnnlib.util", "EasyDict"): _EasyDict,
    ("dnnlib.tflib.network", "Network"): _TensorFlowNetwork,
    ("numpy", "dtype"): _Dropped,
    ("numpy", "ndarray"): _Dropped,
    ("numpy.core.multiarray", "scalar"): _Dropped,
    ("numpy._core.multiarray", "scalar"): _Dropped,
    ("numpy.core.multiarray", "_reconstruct"): _Dropped,
    ("numpy._core.multiarray", "_reconstruct"): _Dropped,
}


def _read(source: Path) -> bytes:
    if not source.is_file():
        raise InputError(f"there is no file {source}")
    size = source.stat().st_size
    if size > MAX_SOURCE_BYTES:
        raise InputError(
            f"{source} has {size:,} bytes, and a generator's pickle at most {MAX_SOURCE_BYTES:,}"
        )
    content = source.read_bytes()
    if not content.startswith(pickle.PROTO):
        raise InputError(f"{source} is no generator's pickle: it looks like {looks_like(source)}")
    return content


# ---- understanding the generator ---------------------------------------------------------------------------


def _parts(generator: _Module) -> dict[str, _Module]:
    """A network's parts by their dotted names; its own name is empty."""
    parts, waiting = {"": generator}, [("", generator)]
    while waiting:
        path, module = waiting.pop()
        for name, child in module.state["_modules"].items():
            child_path = f"{path}.{name}" if path else name
            parts[child_path] = child
            waiting.append((child_path, child))
        if len(parts) > MAX_PARTS:  # a damaged network may be a part of itself
            raise TypeError(f"it has more than {MAX_PARTS} parts")
    return parts


def _check_classes(parts: dict[str, _Module], *, what: str) -> None:
    class_name = parts[""].class_name
    if class_name != "Generator":
        raise InputError(f"{what} holds a {class_name}, expected the Generator of a StyleGAN2")
    if "synthesis.input" in parts:
        raise InputError(
            f"{what} holds a StyleGAN3, whose synthesis is another: only StyleGAN2 can be converted"
        )
    if "synthesis.b4" not in parts or parts["synthesis.b4"].class_name != "SynthesisBlock":
        raise InputError(f"{what} holds a Generator that is no StyleGAN2: its synthesis has no block b4")
    for path, module in parts.items():
        built_as = BUILT_AS.get(module.class_name, {})
        if path.startswith("mapping.fc"):
            built_as = {"activation": "lrelu", "bias_gain": 0.01}
        for name, value in built_as.items():
            if module.state[name] != value:
                raise InputError(
                    f"{what} holds an unusual StyleGAN2: {path} has {name} {module.state[name]}, expected "
                    f"{value}"
                )


def _architecture(parts: dict[str, _Module]) -> Architecture:
    state = parts[""].state
    # StyleGAN2-ADA keeps the arguments of the synthesis apart, StyleGAN3 among the generator's.
    arguments = state["_init_kwargs"] | state["_init_kwargs"].get("synthesis_kwargs", {})
    return Architecture(
        z_dim=state["z_dim"],
        c_dim=state["c_dim"],
        w_dim=state["w_dim"],
        resolution=state["img_resolution"],
        channel_base=arguments.get("channel_base", 32768),
        channel_max=arguments.get("channel_max", 512),
        num_mapping_layers=parts["mapping"].state["num_layers"],
        # The two versions differ in what it is when it is not given.
        conv_clamp=parts["synthesis.b4.conv1"].state["conv_clamp"],
    )


def _tensors(parts: dict[str, _Module]) -> dict[str, Tensor]:
    """Every parameter and buffer, by the name that a state dict gives it."""
    tensors = {
        f"{path}.{name}": tensor
        for path, module in parts.items()
        for kind in ("_parameters", "_buffers")
        for name, tensor in module.state[kind].items()
        if tensor is not None
    }
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}")
    return tensors


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        fresh.write_bytes(content)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
