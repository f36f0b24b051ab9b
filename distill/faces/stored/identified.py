"""What every kind of source comes to: images, and who is on them."""

from dataclasses import dataclass

from torch import Tensor

from distill.faces.stored.decoding import EncodedStore


@dataclass(frozen=True, kw_only=True)
class Identified:
    """N images of C identities.

    Attributes:
        images: Where they are read.
        label_N: Who is on each, int64, ascending, without gaps.
        identities: Name of each of the C identities.
        groups: Name of each identity's demographic group; None where the source does not tell.
    """

    images: EncodedStore
    label_N: Tensor
    identities: tuple[str, ...]
    groups: tuple[str, ...] | None = None
