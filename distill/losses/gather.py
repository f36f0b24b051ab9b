"""The whole batch, where each of several workers holds a share of it.

A loss that compares faces with one another would otherwise see other comparisons on two workers than on one.

B: this worker's share of the batch, N: the whole batch
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def num_workers() -> int:
    """How many workers share each batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def worker_rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if num_workers() > 1 else 0


def gather(share: Tensor) -> Tensor:
    """The rows (B, ...) of all workers in the order of their ranks, (N, ...). No gradient passes."""
    if num_workers() == 1:
        return share.detach()
    shares = [torch.empty_like(share) for _ in range(num_workers())]
    dist.all_gather(shares, share.detach().contiguous())
    return torch.cat(shares)


def gather_with_gradient(share_BD: Tensor) -> Tensor:
    """`gather`, through which gradients come back to the worker whose rows they belong to.

    They come back summed over the workers, each of which computes the same loss of the whole batch. Where
    gradients of parameters are then averaged over the workers, as DDP does, they are those of one worker.
    """
    if num_workers() == 1:
        return share_BD
    gathered: Tensor = _Gather.apply(share_BD)  # pyright: ignore[reportAssignmentType] - apply is untyped
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share_BD: Tensor) -> Tensor:
        ctx.num_rows = len(share_BD)
        return gather(share_BD)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # A copy: autograd may hand the same tensor to another branch too.
        gradient_ND = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient_ND)
        first = worker_rank() * ctx.num_rows
        return gradient_ND[first : first + ctx.num_rows]
