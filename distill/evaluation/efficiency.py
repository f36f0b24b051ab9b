"""What a network costs, known before it is trained.

Multiply-adds are counted as papers on small face networks mean it: those of convolutions and linear layers
for one face. Normalisation, activations and biases are left out. Papers that print FLOPs print about twice as
many.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from distill.evaluation.mode import evaluating
from distill.students import StudentSettings


class MultiplyAddCounter(TorchFunctionMode):
    """Counts the multiply-adds of convolutions and linear layers that run inside it.

    Normalisation and PReLU, which cost none and keep the shape, are skipped: on the `meta` device they would
    take most of the time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in (F.batch_norm, F.prelu):
            return args[0]
        output = func(*args, **(kwargs or {}))
        if func is F.conv2d or func is F.linear:
            weight = args[1]
            self.macs += output.numel() * weight[0].numel()
        return output


def static_efficiency(network: nn.Module, *, size_px: int) -> dict[str, float]:
    """Counts what a network takes to embed one face. Runs on shapes alone: no memory, hardly any time.

    Args:
        network: On any device, `meta` included; stays as it is.
        size_px: Side of the face.

    Returns:
        efficiency/parameters: Weights, frozen ones among them.
        efficiency/weight_bytes: Bytes of all parameters and buffers, as they are now.
        efficiency/macs: Multiply-adds of convolutions and linear layers.
    """
    state = network.state_dict()
    shapes = {name: tensor.to("meta") for name, tensor in state.items()}
    with evaluating(network), MultiplyAddCounter() as counter:
        functional_call(network, shapes, torch.empty(1, 3, size_px, size_px, device="meta"))
    return {
        "efficiency/parameters": float(sum(parameter.numel() for parameter in network.parameters())),
        "efficiency/weight_bytes": float(sum(t.numel() * t.element_size() for t in state.values())),
        "efficiency/macs": float(counter.macs),
    }


def static_efficiency_of(settings: StudentSettings, *, embedding_dim: int, size_px: int) -> dict[str, float]:
    """`static_efficiency` of the student that `settings` would build; no weight of it is made."""
    with torch.device("meta"):
        student = settings.build(embedding_dim=embedding_dim, size_px=size_px)
    return static_efficiency(student, size_px=size_px)
