"""The process that a training runs in: alone, or one of several that hold the same student."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distill.methods import Shard

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Process:
    """One of `world_size` processes that train the same student.

    Attributes:
        shard: Which part of every batch is this process's.
        device: Where its networks and faces live.
    """

    shard: Shard
    device: torch.device

    @classmethod
    def current(cls) -> "Process":
        """This process, as torch.distributed and the visible GPUs describe it."""
        gathered = dist.is_available() and dist.is_initialized()
        shard = Shard(rank=dist.get_rank(), world_size=dist.get_world_size()) if gathered else Shard()
        if not torch.cuda.is_available():
            return cls(shard=shard, device=torch.device("cpu"))
        return cls(shard=shard, device=torch.device("cuda", torch.cuda.current_device()))

    @property
    def leads(self) -> bool:
        """Whether this process evaluates, reports and writes checkpoints for all of them."""
        return self.shard.rank == 0

    def share(self, learner: nn.Module) -> nn.Module:
        """Wraps what learns so that all processes apply the same gradients. Alone, it stays as it is."""
        if self.shard.world_size == 1:
            return learner
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(learner, device_ids=devices)

    def holding_back(self, shared: nn.Module) -> AbstractContextManager[None]:
        """While it lasts, gradients add up in each process, to be shared with those of the next backward pass
        after it.

        Args:
            shared: What `share` returned.
        """
        return shared.no_sync() if isinstance(shared, DistributedDataParallel) else nullcontext()

    def from_leader(self, act: Callable[[], Result]) -> Result:
        """What `act` returns in the process that leads, in every process; the others do not call it."""
        if self.shard.world_size == 1:
            return act()
        results = [act() if self.leads else None]
        dist.broadcast_object_list(results, src=0)
        return cast(Result, results[0])

    def wait(self) -> None:
        """Returns once every process has come here."""
        if self.shard.world_size > 1:
            dist.barrier()
