"""The IR networks of AdaFace: IResNet's other lineage, whose first shortcut only drops pixels.

Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022.
https://arxiv.org/abs/2204.00964

State dictionaries have the names of AdaFace's repository, whose weights load strictly at 112 px. Its networks
return unit embeddings and, beside them, their norms; the product of the two is the raw embedding given here.
They were trained on BGR.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from distill.students.base import initialize, map_size, stage_strides


class IRBlock(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 with the stride, BN; added to the shortcut.

    The shortcut is a 1x1 convolution and BN where the width changes, and every `stride`-th pixel elsewhere.
    """

    def __init__(self, in_width: int, width: int, *, stride: int):
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if in_width != width:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_width),
            nn.Conv2d(in_width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class AdaFaceIR(nn.Module):
    """Four stages of blocks in one list, the first of each halving the map, and a flattened head.

    IR-18, 34, 50 and 101 have (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 14, 3) and (3, 13, 30, 3) blocks of widths
    (64, 128, 256, 512).

    Args:
        blocks: Blocks of each of the four stages.
        widths: Channels of each stage, no two neighbours alike; the stem has the first stage's.
        embedding_dim: Width of the embedding.
        size_px: Side of the images, at least 16; the flattened head works at this size only.

    Raises:
        ValueError: If there are not four stages, or `size_px` is below 16.
    """

    def __init__(self, *, blocks: Sequence[int], widths: Sequence[int], embedding_dim: int, size_px: int):
        super().__init__()
        if not len(blocks) == len(widths) == 4:
            raise ValueError(
                f"AdaFaceIR has four stages, got {len(blocks)} numbers of blocks, {len(widths)} widths"
            )
        strides = stage_strides(size_px, num_stages=4)
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])
        )
        self.body = nn.Sequential()
        in_width = widths[0]
        for num_blocks, width, stride in zip(blocks, widths, strides, strict=True):
            self.body.append(IRBlock(in_width, width, stride=stride))
            self.body.extend(IRBlock(width, width, stride=1) for _ in range(num_blocks - 1))
            in_width = width
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(in_width),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(in_width * map_size(size_px, strides) ** 2, embedding_dim),
            nn.BatchNorm1d(embedding_dim, affine=False),
        )
        self.stage_names = tuple(f"body.{sum(blocks[: stage + 1]) - 1}" for stage in range(4))
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H), BGR in [-1, 1], as raw embeddings of shape (B, D)."""
        return self.output_layer(self.body(self.input_layer(images)))
