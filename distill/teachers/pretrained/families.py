"""The networks whose weights are known by their names, and what their weights do not say of them.

Where the facts come from: InsightFace (https://github.com/deepinsight/insightface), its port from MXNet
(https://github.com/nizhib/pytorch-insightface), AdaFace (https://github.com/mk-minchul/AdaFace).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn

from distill.students import IResNet, Mbf, MobileFaceNet
from distill.teachers.pretrained.adaface import AdaFaceIR
from distill.teachers.pretrained.preprocessing import Facts

Shapes = Mapping[str, torch.Size]
KnownFamily = Literal["iresnet", "iresnet_mxnet", "adaface", "mbf", "mobilefacenet"]

ARCFACE = Facts(color_order="RGB", mean=127.5, std=127.5, size_px=112, bn_eps=1e-5)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Networks that differ in depth and width alone.

    Attributes:
        title: What they are, for a sentence.
        landmark: A tensor that each of them has, and no other family.
        head: The layer that makes the embedding: it has as many rows as that has dimensions.
        facts: What their weights do not tell.
        build: Makes the network around tensors of these shapes, for images of this side. Raises a
            LookupError where a shape is missing that decides what the network is.
    """

    title: str
    landmark: str
    head: str
    facts: Facts
    build: Callable[[Shapes, int], nn.Module]


def _iresnet(shapes: Shapes, size_px: int) -> nn.Module:
    stages = range(1, 5)
    return IResNet(
        blocks=[_count(shapes, f"layer{stage}") for stage in stages],
        widths=[shapes[f"layer{stage}.0.conv1.weight"][0] for stage in stages],
        embedding_dim=shapes["fc.weight"][0],
        size_px=size_px,
    )


def _adaface(shapes: Shapes, size_px: int) -> nn.Module:
    widths = [shapes[f"body.{block}.res_layer.1.weight"][0] for block in range(_count(shapes, "body"))]
    stages = [(width, len(list(blocks))) for width, blocks in groupby(widths)]
    if len(stages) != 4:
        raise LookupError("four stages of different widths")
    return AdaFaceIR(
        blocks=[num_blocks for _, num_blocks in stages],
        widths=[width for width, _ in stages],
        embedding_dim=shapes["output_layer.3.weight"][0],
        size_px=size_px,
    )


def _mbf(shapes: Shapes, size_px: int) -> nn.Module:
    first_is_plain = "layers.1.layers.0.weight" in shapes
    stages = ("layers.3.layers", "layers.5.layers", "layers.7.layers")
    return Mbf(
        blocks=(
            1 if first_is_plain else _count(shapes, "layers.1.layers"),
            *(_count(shapes, stage) for stage in stages),
        ),
        scale=max(1, shapes["layers.0.layers.0.weight"][0] // 64),
        embedding_dim=shapes["features.layers.2.weight"][0],
        size_px=size_px,
    )


def _mobilefacenet(shapes: Shapes, size_px: int) -> nn.Module:
    embedding_dim = shapes["output_layer.linear.weight"][0]
    network = MobileFaceNet(
        width=shapes["conv1.conv.weight"][0] / 64, embedding_dim=embedding_dim, size_px=size_px
    )
    # cavaface and FaceX-Zoo learn a gain and a bias there, AdaDistill does not.
    network.output_layer.bn = nn.BatchNorm1d(embedding_dim, affine="output_layer.bn.weight" in shapes)
    return network


FAMILIES: dict[KnownFamily, Family] = {
    "iresnet": Family(
        title="an IResNet",
        landmark="layer1.0.prelu.weight",
        head="fc.weight",
        facts=ARCFACE,
        build=_iresnet,
    ),
    "iresnet_mxnet": Family(
        title="an IResNet",
        landmark="layer1.0.prelu.weight",
        head="fc.weight",
        facts=Facts(std=128.0, bn_eps=2e-5).over(ARCFACE),
        build=_iresnet,
    ),
    "adaface": Family(
        title="an IR network of AdaFace",
        landmark="body.0.res_layer.0.weight",
        head="output_layer.3.weight",
        facts=Facts(color_order="BGR").over(ARCFACE),
        build=_adaface,
    ),
    "mbf": Family(
        title="an mbf of InsightFace",
        landmark="conv_sep.layers.0.weight",
        head="features.layers.2.weight",
        facts=ARCFACE,
        build=_mbf,
    ),
    "mobilefacenet": Family(
        title="a classic MobileFaceNet",
        landmark="conv_6_sep.conv.weight",
        head="output_layer.linear.weight",
        facts=ARCFACE,
        build=_mobilefacenet,
    ),
}

LOOKALIKES = {
    "layer1.0.bn1.weight": "a ResNet without PReLUs, such as torchvision's",
    "blocks.0.attn.qkv.weight": "a vision transformer",
    "conv2d_1a.conv.weight": "an Inception-ResNet of facenet-pytorch",
}
"""By a tensor that they have: what is met beside the known families."""


def unknown(tensors: Mapping[str, Tensor]) -> str:
    """What tensors look like that belong to no known family, for a sentence."""
    for landmark, title in LOOKALIKES.items():
        if any(name == landmark or name.endswith(f".{landmark}") for name in tensors):
            return title
    if len(tensors) <= 2 and all(tensor.ndim == 2 for tensor in tensors.values()):
        return f"a softmax head of shape {tuple(next(iter(tensors.values())).shape)}"
    return f"no network that is known by its names: it has {len(tensors)} tensors, the first {min(tensors)}"


def looks_ported(weights: Mapping[str, Tensor]) -> bool:
    """Whether an IResNet was not trained by arcface_torch, whose state dictionaries have the same names.

    arcface_torch keeps the gain of the last BN at 1, and its BNs have counted the batches of their training.
    """
    gain = weights.get("features.weight")
    counters = [tensor for name, tensor in weights.items() if name.endswith("num_batches_tracked")]
    trained_gain = gain is not None and not bool((gain == 1).all())
    return trained_gain or (bool(counters) and not any(bool(counter.any()) for counter in counters))


def _count(shapes: Shapes, sequence: str) -> int:
    """Modules of a numbered sequence."""
    pattern = re.compile(rf"{re.escape(sequence)}\.(\d+)\.")
    return len({match[1] for name in shapes if (match := pattern.match(name))})
