"""What every student is, and what the networks of this folder share.

B: batch, D: width of the embedding, H: side of the image
"""

from abc import ABC, abstractmethod

from torch import nn

from distill.settings import Settings

MIN_SIZE_PX = 16
MIN_MAP_PX = 4


class StudentSettings(Settings, ABC):
    """Settings of one architecture. Each subclass has a `name` of its own, by which a trial chooses it."""

    @property
    def init(self) -> str:
        """What a student's weights are before it is trained, for the record."""
        return "scratch"

    @abstractmethod
    def build(self, *, embedding_dim: int, size_px: int) -> nn.Module:
        """Makes the network, with fresh weights from torch's default random stream.

        The network maps faces of shape (B, 3, H, H), RGB in [-1, 1], to raw embeddings of shape (B, D). Its
        attribute `stage_names` names the submodules whose outputs are the maps of its stages.

        Args:
            embedding_dim: D.
            size_px: H, at least 16. The published networks are those at 112.

        Raises:
            ValueError: If `size_px` is too small for the network.
        """


def stage_strides(size_px: int, *, num_stages: int) -> tuple[int, ...]:
    """Strides that keep the last feature map at 4 px or more.

    Networks for 112 px halve the map in every stage, down to 7 px. On a smaller face the later stages keep
    their map instead: at 49 px and above none, from 25 to 48 px the last one, below that the last two.
    Keeping the first maps large instead makes a step two to three times as slow, and a student at 32 px less
    accurate for the same time.

    Raises:
        ValueError: If `size_px` is below 16.
    """
    if size_px < MIN_SIZE_PX:
        raise ValueError(f"size_px must be at least {MIN_SIZE_PX}, got {size_px}")
    strides = []
    for _ in range(num_stages):
        halved_px = -(-size_px // 2)
        strides.append(2 if halved_px >= MIN_MAP_PX else 1)
        size_px = halved_px if strides[-1] == 2 else size_px
    return tuple(strides)


def map_size(size_px: int, strides: tuple[int, ...]) -> int:
    """Side of the map that padded 3x3 convolutions of these strides leave of an image."""
    for stride in strides:
        size_px = -(-size_px // stride)
    return size_px


def scaled_width(width: int, factor: float) -> int:
    """`width` channels times `factor`, to the nearest multiple of 8 and at least 8. 1.0 changes nothing."""
    return width if factor == 1.0 else max(8, round(width * factor / 8) * 8)


def initialize(network: nn.Module) -> None:
    """Draws fresh weights that keep the variance of a signal through PReLUs that start at slope 0.25.

    He et al., "Delving Deep into Rectifiers", ICCV 2015. https://arxiv.org/abs/1502.01852
    Fan-in is counted, which a depthwise convolution has as few as 9 of.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0.25, nonlinearity="leaky_relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
