"""Images of other stores: some of one, or those of several as one.

N: images of the view, B: those asked for, P: parts
"""

import hashlib

import torch
from torch import Tensor

from distill.faces.store import ImageStore
from distill.faces.stored.decoding import NUM_NAMED, CorruptImages, EncodedStore


class HeldImages(ImageStore):
    """Images that are in memory already.

    Args:
        images: RGB, uint8, of shape (N, 3, H, H).
    """

    def __init__(self, images: Tensor):
        self.images = images
        self.digest = hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[index_B], torch.ones(len(index_B), dtype=torch.bool)


class SelectedImages(ImageStore):
    """Some images of a store, in an order of their own.

    Args:
        index_N: Which ones, int64.
    """

    def __init__(self, store: ImageStore, index_N: Tensor):
        self.store, self.index_N = store, index_N
        content = hashlib.sha256(f"selected/{store.digest}/".encode())
        content.update(index_N.contiguous().numpy().tobytes())
        self.digest = content.hexdigest()

    def __len__(self) -> int:
        return len(self.index_N)

    def read(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        return self.store.read(self.index_N[index_B])

    def expect(self, index_B: Tensor) -> None:
        self.store.expect(self.index_N[index_B])


class JoinedImages(ImageStore):
    """The images of several stores, one store after the other."""

    def __init__(self, parts: tuple[ImageStore, ...]):
        self.parts = parts
        self.digest = hashlib.sha256(
            "/".join(["joined", *(part.digest for part in parts)]).encode()
        ).hexdigest()
        self._end_P = torch.tensor([len(part) for part in parts]).cumsum(0)

    def __len__(self) -> int:
        return int(self._end_P[-1])

    def read(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        images, readable, places = [], [], []
        for part, place_M, index_M in self._dealt(index_B):
            images_M, readable_M = part.read(index_M)
            images.append(images_M)
            readable.append(readable_M)
            places.append(place_M)
        order_B = torch.cat(places).argsort()
        return torch.cat(images)[order_B], torch.cat(readable)[order_B]

    def expect(self, index_B: Tensor) -> None:
        for part, _, index_M in self._dealt(index_B):
            part.expect(index_M)

    def _dealt(self, index_B: Tensor) -> list[tuple[ImageStore, Tensor, Tensor]]:
        """The parts that are asked, each with its images' places in the batch and their indices in it."""
        part_B = torch.bucketize(index_B, self._end_P, right=True)
        dealt = []
        for p in part_B.unique().tolist():
            place_M = (part_B == p).nonzero().squeeze(1)
            start = int(self._end_P[p]) - len(self.parts[p])
            dealt.append((self.parts[p], place_M, index_B[place_M] - start))
        return dealt


def corrupt_images(images: Tensor | ImageStore) -> CorruptImages:
    """What could not be read so far of the stores behind a set's images, each store counted once."""
    found = [store.corrupt for store in {id(store): store for store in _encoded(images)}.values()]
    return CorruptImages(
        count=sum(corrupt.count for corrupt in found),
        num_read=sum(corrupt.num_read for corrupt in found),
        names=tuple(name for corrupt in found for name in corrupt.names)[:NUM_NAMED],
    )


def _encoded(images: Tensor | ImageStore) -> list[EncodedStore]:
    if isinstance(images, EncodedStore):
        return [images]
    if isinstance(images, SelectedImages):
        return _encoded(images.store)
    if isinstance(images, JoinedImages):
        return [store for part in images.parts for store in _encoded(part)]
    return []
