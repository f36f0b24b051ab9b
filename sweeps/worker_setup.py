"""What a process that trains is set up with before anything in it uses a GPU or speaks to another."""

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


def see_own_gpus_only() -> None:
    """Hides from this process of Ray's the GPUs of its node where it was given none: Ray would show it all.

    CUDA looks once, when it is first used.
    """
    if not ray.get_runtime_context().get_accelerator_ids()["GPU"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def speak_over_ray_network() -> None:
    """Names gloo the interface that Ray's own address belongs to.

    Left alone it takes the address that the machine's name stands for, which is a loopback address on many.
    """
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address == address for known in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _set_up() -> None:
    see_own_gpus_only()
    speak_over_ray_network()


class _Backend(_TorchBackend):
    """Sets up all workers before they form their process group."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_set_up)
        super().on_start(worker_group, backend_config)


class WorkerSetup(TorchConfig):
    """How the workers of a trial form a process group."""

    @property
    def backend_cls(self) -> type[_Backend]:
        """Ray asks for it."""
        return _Backend
