"""Several workers that share a batch, and one that holds it whole, doing the same thing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from distill.losses.base import LossContext, LossSettings
from distill.losses.gather import num_workers, worker_rank
from distill.outputs import ModelOutputs

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Faces:
    """A whole batch: inputs of a linear student, the teacher's embeddings, and labels."""

    input_NI: Tensor
    teacher_ND: Tensor
    labels_N: Tensor

    def share(self) -> "Faces":
        """This worker's rows."""
        size = len(self.labels_N) // num_workers()
        rows = slice(worker_rank() * size, (worker_rank() + 1) * size)
        return Faces(
            input_NI=self.input_NI[rows], teacher_ND=self.teacher_ND[rows], labels_N=self.labels_N[rows]
        )


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What one batch taught: the loss, the gradients that the optimiser gets, and what the loss keeps."""

    value: Tensor
    gradients: list[Tensor]
    buffers: dict[str, Tensor]


def on_workers(
    function: Callable[..., Result], *arguments: Any, world_size: int, directory: Path
) -> list[Result]:
    """Calls a function of a module in `world_size` processes that can gather; returns each one's result."""
    spawn(_work, args=(function, arguments, world_size, directory), nprocs=world_size)
    return [torch.load(directory / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def learn(losses: dict[str, LossSettings], batches: list[Faces]) -> dict[str, list[Lesson]]:
    """Shows the batches to a student once for each loss, this worker's share of them."""
    return {name: _learn(settings, batches) for name, settings in losses.items()}


def _learn(settings: LossSettings, batches: list[Faces]) -> list[Lesson]:
    torch.manual_seed(0)
    student = nn.Linear(batches[0].input_NI.shape[1], 4).double()
    teacher_dim = batches[0].teacher_ND.shape[1]
    loss_fn = settings.build(LossContext(student_dim=4, teacher_dim=teacher_dim)).double()
    lessons = []
    for faces in batches:
        share = faces.share()
        student.zero_grad()
        loss = loss_fn(
            student=ModelOutputs(embedding=student(share.input_NI)),
            teacher=ModelOutputs(embedding=share.teacher_ND),
            labels_B=share.labels_N,
        )
        loss.backward()
        lessons.append(
            Lesson(
                value=loss.detach(),
                gradients=[_averaged(parameter) for parameter in student.parameters()],
                buffers={name: buffer.clone() for name, buffer in loss_fn.named_buffers()},
            )
        )
    return lessons


def _averaged(parameter: nn.Parameter) -> Tensor:
    """A parameter's gradient, averaged over the workers as DDP does."""
    assert parameter.grad is not None
    gradient = parameter.grad.clone()
    if num_workers() > 1:
        dist.all_reduce(gradient)
    return gradient / num_workers()


def _work(
    rank: int, function: Callable[..., Any], arguments: tuple[Any, ...], world_size: int, directory: Path
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{directory / 'meeting'}", rank=rank, world_size=world_size
    )
    torch.save(function(*arguments), directory / f"{rank}.pt")
    dist.destroy_process_group()
