"""What a network costs: counted before it is trained, and timed on one CPU thread.

Multiply-adds are counted as papers on small face networks mean it: those of convolutions and linear layers
for one face. Normalisation, activations and biases are left out. Papers that print FLOPs print about twice as
many.

R: repeats of a measurement
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from distill.errors import InputError
from distill.evaluation.mode import evaluating
from distill.runtimes import OnnxNetwork
from distill.students import StudentSettings

BATCH_SIZES = (1, 128)
"""Faces at a time: a phone that unlocks, a server that indexes."""
_SHORTEST_REPEAT_S = 0.02
"""A repeat runs a fast network several times over, so that the clock's own grain does not show."""
_FLOAT32_BYTES = 4
LATENCY = "efficiency/latency_ms"
"""Milliseconds that one face takes on one CPU thread: what a search measures where it asks for it."""


class MultiplyAddCounter(TorchFunctionMode):
    """Counts the multiply-adds of convolutions and linear layers that run inside it, and their outputs.

    Normalisation and PReLU, which cost none and keep the shape, are skipped: on the `meta` device they would
    take most of the time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.outputs = 0

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
            self.outputs += output.numel()
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
        efficiency/activation_bytes: Bytes of the outputs of all convolutions and linear layers for one face,
            in float32. It is the sum of them, not the peak: what holding every feature map takes.
    """
    state = network.state_dict()
    shapes = {name: tensor.to("meta") for name, tensor in state.items()}
    with evaluating(network), MultiplyAddCounter() as counter:
        functional_call(network, shapes, torch.empty(1, 3, size_px, size_px, device="meta"))
    return {
        "efficiency/parameters": float(sum(parameter.numel() for parameter in network.parameters())),
        "efficiency/weight_bytes": float(sum(t.numel() * t.element_size() for t in state.values())),
        "efficiency/macs": float(counter.macs),
        "efficiency/activation_bytes": float(_FLOAT32_BYTES * counter.outputs),
    }


def teacher_efficiency(teacher: nn.Module, *, size_px: int) -> dict[str, float]:
    """`static_efficiency` of a teacher; nothing where onnxruntime runs it, which cannot be counted."""
    if any(isinstance(module, OnnxNetwork) for module in teacher.modules()):
        return {}
    return static_efficiency(teacher, size_px=size_px)


def static_efficiency_of(settings: StudentSettings, *, embedding_dim: int, size_px: int) -> dict[str, float]:
    """`static_efficiency` of the student that `settings` would build; no weight of it is made."""
    with torch.device("meta"):
        student = settings.build(embedding_dim=embedding_dim, size_px=size_px)
    return static_efficiency(student, size_px=size_px)


def measured_efficiency(network: nn.Module, *, size_px: int, repeats: int = 15) -> dict[str, float]:
    """Times a network on one CPU thread, whatever the process is set to; that setting comes back.

    Every repeat embeds the same faces, so its spread is the machine's. The first run, which allocates memory,
    is not timed.

    Args:
        network: On the CPU. It is used in evaluation mode and comes back in the mode it was in.
        size_px: Side of the faces.
        repeats: Measurements at each batch size, each of at least 20 ms.

    Returns:
        For batches of 1 and of 128 faces:

        efficiency/faces_per_second_batch_<size>: Median of the repeats.
        efficiency/faces_per_second_batch_<size>_low, ..._high: Their quartiles: the middle half of the
            repeats lies between them.

    Raises:
        InputError: If the network is not on the CPU, or `repeats` is below 1.
    """
    devices = {tensor.device.type for tensor in network.state_dict().values()}
    if devices - {"cpu"}:
        raise InputError(f"efficiency is measured on the CPU, the network is on {', '.join(sorted(devices))}")
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, got {repeats}")
    faces = (
        torch.rand(max(BATCH_SIZES), 3, size_px, size_px, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    metrics = {}
    with evaluating(network), _one_thread():
        for batch_size in BATCH_SIZES:
            rate_R = _faces_per_second(network, faces[:batch_size], repeats=repeats)
            low, median, high = rate_R.quantile(rate_R.new_tensor([0.25, 0.5, 0.75])).tolist()
            name = f"efficiency/faces_per_second_batch_{batch_size}"
            metrics |= {name: median, f"{name}_low": low, f"{name}_high": high}
    return metrics


def latency_of(settings: StudentSettings, *, embedding_dim: int, size_px: int, repeats: int = 15) -> float:
    """Times the student that `settings` would build, untrained, on one face and one CPU thread.

    Returns:
        Milliseconds: the least of the repeats, since whatever else the machine does only adds to them.
    """
    student = settings.build(embedding_dim=embedding_dim, size_px=size_px)
    face = torch.zeros(1, 3, size_px, size_px)
    with evaluating(student), _one_thread():
        return 1000 / float(_faces_per_second(student, face, repeats=repeats).max())


def _faces_per_second(network: nn.Module, faces: Tensor, *, repeats: int) -> Tensor:
    """Rates of all repeats, of shape (R,), float64."""
    _seconds(network, faces, calls=1)
    calls = math.ceil(_SHORTEST_REPEAT_S / _seconds(network, faces, calls=1))
    seconds_R = torch.tensor(
        [_seconds(network, faces, calls=calls) for _ in range(repeats)], dtype=torch.float64
    )
    return calls * len(faces) / seconds_R


def _seconds(network: nn.Module, faces: Tensor, *, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        network(faces)
    return time.perf_counter() - start


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps torch to one thread, then gives back as many as it had."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
