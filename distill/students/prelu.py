"""PReLU as students train it: on a CPU, with a gradient that is vectorised.

He et al., "Delving Deep into Rectifiers", ICCV 2015. https://arxiv.org/abs/1502.01852
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _PReLU(torch.autograd.Function):
    """Made of torch's own vectorised kernels. Its kernel for the gradient of a PReLU goes by one number after
    the other: at 32 px it took a third of a small student's step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope_C: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope_C)
        return F.prelu(x, slope_C)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        (grad,) = grad_outputs
        x, slope_C = ctx.saved_tensors
        slope = slope_C.to(grad.dtype).view(-1, *[1] * (x.dim() - 2))
        # In place where it may be: a step waits for memory more than it computes.
        of_x = torch.ops.aten.threshold_backward(grad, x, 0)
        below = grad - of_x
        of_x.addcmul_(below, slope)
        others = [dim for dim in range(x.dim()) if dim != 1]
        return of_x, below.mul_(x).sum(dim=others, dtype=slope_C.dtype)


class PReLU(nn.PReLU):
    """`torch.nn.PReLU` with a slope for each channel of what has the shape (B, C, ...)."""

    def forward(self, input: Tensor) -> Tensor:
        """The same numbers in either way; what is exported, or runs elsewhere, is torch's."""
        if self.training and torch.is_grad_enabled() and input.device.type == "cpu":
            return _PReLU.apply(input, self.weight)  # pyright: ignore[reportReturnType] - not known to the stubs
        return super().forward(input)
