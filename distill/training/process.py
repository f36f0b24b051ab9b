"""The process that a training runs in: alone, or one of several that hold the same student."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distill.methods import Shard


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

    def wait(self) -> None:
        """Returns once every process has come here."""
        if self.shard.world_size > 1:
            dist.barrier()
