"""Our PReLU against torch's: the same numbers and gradients, in every layout and precision."""

import pytest
import torch
from torch import Tensor, nn

from distill.students.prelu import PReLU

CHANNELS = 5


def results(module: nn.PReLU, x: Tensor, *, autocast: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What it gives, and the gradients of x and of the slopes."""
    x = x.clone().requires_grad_()
    with torch.no_grad():
        module.weight.copy_(torch.linspace(-0.5, 1.5, CHANNELS))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y = module(x)
    (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    assert x.grad is not None
    assert module.weight.grad is not None
    return y.detach(), x.grad, module.weight.grad


@pytest.mark.parametrize("shape", [(6, CHANNELS, 7, 3), (6, CHANNELS, 1, 1), (6, CHANNELS)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_it_gives_what_torch_gives(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[:2] = 0  # where the slope changes
    if layout == "channels_last" and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    ours, torchs = (
        results(make(CHANNELS), x, autocast=dtype == torch.bfloat16) for make in (PReLU, nn.PReLU)
    )
    for one, other in zip(ours[:2], torchs[:2], strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert ours[2].dtype == torchs[2].dtype
    # Sums in another order, of products that bfloat16 rounds to eight bits.
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert torch.allclose(ours[2], torchs[2], rtol=tolerance, atol=tolerance)


def test_its_gradient_is_the_derivative() -> None:
    module = PReLU(CHANNELS).double()
    x = torch.randn(3, CHANNELS, 2, 2, dtype=torch.float64, requires_grad=True)
    slopes = module.weight
    assert torch.autograd.gradcheck(lambda x, _: module(x), (x, slopes))


def test_what_is_exported_is_torchs_own() -> None:
    exported = torch.export.export(nn.Sequential(PReLU(CHANNELS)).eval(), (torch.randn(2, CHANNELS, 4, 4),))
    assert [node.target for node in exported.graph.nodes if node.op == "call_function"] == [
        torch.ops.aten.prelu.default
    ]
