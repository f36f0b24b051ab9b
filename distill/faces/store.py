"""Images that are decoded when they are asked for, because all of them together are too many.

N: images of the store, B: those asked for
"""

from abc import ABC, abstractmethod

from torch import Tensor


class ImageStore(ABC):
    """N images on disk, any of which can be read at any time.

    A store can be pickled: what it holds open is opened again where it arrives. Reading is thread-safe.

    Attributes:
        digest: Hex digest of everything that decides what the images are, found without decoding them.
    """

    digest: str

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def read(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Decodes images, several at once.

        Returns:
            The images, RGB, uint8, of shape (B, 3, H, H), all zeros where one cannot be read; and whether
            each could be, bool, of shape (B,).

        Raises:
            InputError: If more of the images read so far than the allowed share cannot be.
        """

    def expect(self, index_B: Tensor) -> None:
        """Hints that these images will be asked for next: a store may begin to decode them beside the caller.

        Nothing must depend on it. The last two calls count: the next images may be hinted at before those in
        between are read.
        """
        del index_B
