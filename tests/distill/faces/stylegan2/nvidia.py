"""Writes pickles as NVIDIA's PyTorch code writes them: every network carries source text to be executed."""

import copyreg
import pickle
import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class EasyDict(dict[str, Any]):
    """Named as NVIDIA's while a pickle is written."""

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        # Python 3.7, which wrote NVIDIA's files, sets an empty state where newer ones set none.
        return copyreg.__newobj__, (EasyDict,), {}, None, iter(self.items())  # pyright: ignore[reportAttributeAccessIssue]


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
    """As the real one: executes what the pickle brings along."""
    module = types.ModuleType("imported")
    exec(meta["module_src"], module.__dict__)
    return module.__dict__[meta["class_name"]]


class Persistent(nn.Module):
    """A network whose class is only a name."""

    def __init__(self, class_name: str, module_src: str, **state: Any):
        super().__init__()
        self.__dict__.update(state)
        self._class_name, self._module_src = class_name, module_src

    def __reduce__(self) -> tuple[Any, ...]:
        state = {
            name: value for name, value in self.__dict__.items() if name not in ("_class_name", "_module_src")
        }
        meta = {"type": "class", "version": 6, "module_src": self._module_src}
        return _reconstruct_persistent_obj, ({**meta, "class_name": self._class_name, "state": state},), None


@contextmanager
def nvidias_modules() -> Iterator[None]:
    """Lets the names be found that such pickles refer to."""
    modules = {name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence")}
    modules |= {name: types.ModuleType(name) for name in ("dnnlib", "dnnlib.util")}
    own = {_reconstruct_persistent_obj: "torch_utils.persistence", EasyDict: "dnnlib.util"}
    before = {thing: thing.__module__ for thing in own}
    for thing, module in own.items():
        thing.__module__ = module
        setattr(modules[module], thing.__name__, thing)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        for thing, module in before.items():
            thing.__module__ = module


def written(snapshot: Any, *, protocol: int = 3) -> bytes:
    """A pickle. NVIDIA's are of protocol 3, the default of Python 3.7, or 4."""
    with nvidias_modules():
        return pickle.dumps(snapshot, protocol=protocol)


def generator(
    tensors: dict[str, Tensor],
    *,
    module_src: str = "",
    layout: str = "ada",
    conv_clamp: float | None = None,
    **sizes: int,
) -> Persistent:
    """A generator around its tensors.

    Args:
        layout: Of its arguments: `ada` keeps those of the synthesis apart, `stylegan3` does not.
        sizes: As `by_hand.shapes`.
    """
    own = {"z_dim": sizes["z_dim"], "c_dim": sizes["c_dim"], "w_dim": sizes["w_dim"]}
    own |= {"img_resolution": sizes["resolution"], "img_channels": 3}
    widths = EasyDict(channel_base=sizes["channel_base"], channel_max=sizes["channel_max"], num_fp16_res=4)
    mapping = EasyDict(num_layers=sizes["layers"])
    synthesis = {"synthesis_kwargs": widths} if layout == "ada" else widths
    arguments = {**own, "mapping_kwargs": mapping, **synthesis}
    root = Persistent("Generator", module_src, **own, _init_args=(), _init_kwargs=arguments)
    for name, tensor in tensors.items():
        *path, own_name = name.split(".")
        part = root
        for depth, child in enumerate(path):
            if child not in part._modules:
                class_name, state = _part(".".join(path[: depth + 1]), sizes, conv_clamp)
                part.add_module(
                    child, Persistent(class_name, module_src, **state, _init_args=(), _init_kwargs={})
                )
            part = part._modules[child]
            assert isinstance(part, Persistent)
        if own_name in ("w_avg", "resample_filter", "noise_const"):
            part.register_buffer(own_name, tensor)
        else:
            part.register_parameter(own_name, nn.Parameter(tensor, requires_grad=False))
    return root


def snapshot(network: Persistent) -> dict[str, Any]:
    """What a training leaves behind: three networks, and how it was set up."""
    discriminator = Persistent("Discriminator", network._module_src)
    discriminator.register_buffer("weight", torch.ones(3))
    augment = Persistent("AugmentPipe", network._module_src, bands=np.arange(4.0), p=np.float64(0.5))
    data = EasyDict(class_name="training.dataset.ImageFolderDataset", resolution=32, use_labels=False)
    networks = {"G": network, "D": discriminator, "G_ema": network, "augment_pipe": augment}
    return {"training_set_kwargs": data, **networks}


def _part(path: str, sizes: dict[str, int], conv_clamp: float | None) -> tuple[str, dict[str, Any]]:
    """Class and attributes of one part."""
    last = path.rpartition(".")[2]
    if path == "mapping":
        return "MappingNetwork", {"num_layers": sizes["layers"], "w_avg_beta": 0.998}
    if path == "synthesis":
        return "SynthesisNetwork", {"block_resolutions": [4, 8, 16, 32]}
    if re.fullmatch(r"b\d+", last):
        return "SynthesisBlock", {"architecture": "skip", "use_fp16": False}
    if last in ("conv0", "conv1"):
        state = {"activation": "lrelu", "use_noise": True, "conv_clamp": conv_clamp, "up": 1}
        return "SynthesisLayer", {**state, "act_gain": np.sqrt(2)}
    if last == "torgb":
        return "ToRGBLayer", {"conv_clamp": conv_clamp, "weight_gain": np.sqrt(0.5)}
    hidden = last.startswith("fc")
    gain = {"bias_gain": 0.01 if hidden else 1.0, "weight_gain": np.sqrt(0.5)}
    return "FullyConnectedLayer", {"activation": "lrelu" if hidden else "linear", **gain}
