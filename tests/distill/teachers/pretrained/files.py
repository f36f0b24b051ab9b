"""Networks and files of weights for the tests of pretrained teachers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.students import IResNet, Mbf, MobileFaceNet
from distill.teachers.pretrained import AdaFaceIR

SIZE_PX = 16


def faces(number: int = 3, *, size_px: int = SIZE_PX) -> Tensor:
    return torch.rand(number, 3, size_px, size_px, generator=torch.Generator().manual_seed(1)) * 2 - 1


def lived_in(network: nn.Module) -> Any:
    """The network with weights and running statistics unlike any that fresh networks have, in eval mode."""
    rng = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif tensor.ndim == 1:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
    if isinstance(network, IResNet):
        network.features.weight.data.fill_(1.0)
    return network.eval()


def iresnet(**changes: Any) -> IResNet:
    settings = {"blocks": (1, 2, 1, 1), "widths": (8, 16, 24, 32), "embedding_dim": 20, "size_px": SIZE_PX}
    torch.manual_seed(0)
    return lived_in(IResNet(**(settings | changes)))


def adaface() -> AdaFaceIR:
    torch.manual_seed(0)
    return lived_in(AdaFaceIR(blocks=(2, 1, 1, 1), widths=(8, 16, 24, 32), embedding_dim=20, size_px=SIZE_PX))


def mbf() -> Mbf:
    torch.manual_seed(0)
    return lived_in(Mbf(blocks=(1, 1, 2, 1), scale=1, embedding_dim=20, size_px=SIZE_PX))


def mobilefacenet(*, affine: bool = False) -> MobileFaceNet:
    torch.manual_seed(0)
    network = MobileFaceNet(width=0.25, embedding_dim=20, size_px=SIZE_PX)
    network.output_layer.bn = nn.BatchNorm1d(20, affine=affine)
    return lived_in(network)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "iresnet": iresnet,
    "adaface": adaface,
    "mbf": mbf,
    "mobilefacenet": mobilefacenet,
}


def save(content: object, path: Path) -> Path:
    """Writes a network's state dictionary, or anything else, by torch.save."""
    torch.save(content.state_dict() if isinstance(content, nn.Module) else content, path)
    return path
