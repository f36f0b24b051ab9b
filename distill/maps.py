"""The feature maps of a network's stages, for losses that compare them.

B: batch, K: channels of a stage, H, W: height and width of its map
"""

from typing import Any, Self

import torch
from torch import Tensor, nn

from distill.errors import InputError
from distill.evaluation.mode import evaluating


class StageMaps:
    """Keeps what the stages of a network put out while it is used as a context.

    A network names its stages, first to last, in its attribute `stage_names`.

    Raises:
        InputError: If the network names none.
    """

    def __init__(self, network: nn.Module):
        names: tuple[str, ...] = getattr(network, "stage_names", ())
        if not names:
            raise InputError(
                "losses that compare feature maps need a network with stages, which "
                f"{type(network).__name__} has not"
            )
        self._stages = [network.get_submodule(name) for name in names]
        self._maps: list[Tensor] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        self._maps = []
        self._handles = [stage.register_forward_hook(self._keep) for stage in self._stages]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """The maps of the last forward pass, each (B, K, H, W)."""
        return tuple(self._maps)

    def _keep(self, stage: nn.Module, inputs: Any, output: Tensor) -> None:
        self._maps.append(output)


def map_shapes(network: nn.Module, *, size_px: int) -> tuple[tuple[int, int, int], ...]:
    """Shapes (K, H, W) of the maps of a network in evaluation mode, for faces of `size_px`.

    Raises:
        InputError: If the network names no stages.
    """
    device = next(network.parameters()).device
    with evaluating(network), StageMaps(network) as stages:
        network(torch.zeros(1, 3, size_px, size_px, device=device))
    return tuple((m.shape[1], m.shape[2], m.shape[3]) for m in stages.maps)
