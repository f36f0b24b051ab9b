"""The interface of every source of generated faces: the embedded world today, StyleGAN2 with it.

B: batch, Z: width of the latent that is drawn, W: width of the latent that is rendered
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

FIXED_SEED = 20_230_814  # every trial compares student and teacher on the same faces


class FaceGenerator(nn.Module, ABC):
    """Turns noise into faces in two steps: `mapping` (z to w) and `synthesis` (w to image).

    Frozen and deterministic: the same arguments give the same faces, on any number of workers and
    whatever else the batch holds. Works on the device that its buffers are on.

    Attributes:
        z_dim: Width of z, whose entries are drawn from N(0, 1).
        w_dim: Width of w, the space in which SynthDistill re-samples.
        size_px: Side of the images.
        num_classes: How many identities `classes_B` may name; 0 when the generator is unconditional.
        group_names: Names of the demographic groups that `groups_B` indexes; empty when it has none.
        digest: Hex digest of everything that decides what the faces look like, for the record.
    """

    z_dim: int
    w_dim: int
    size_px: int
    num_classes: int
    group_names: tuple[str, ...]
    digest: str

    @abstractmethod
    def mapping(
        self, z_BZ: Tensor, *, classes_B: Tensor | None = None, groups_B: Tensor | None = None
    ) -> Tensor:
        """Maps z, and the identity or group where given, to w of shape (B, W).

        Args:
            z_BZ: Draws from N(0, 1), of shape (B, Z).
            classes_B: Identity of each face, in [0, num_classes). None leaves the identity to z.
            groups_B: Demographic group of each face. None leaves it to the identity, or to z.

        Raises:
            ValueError: If an index is out of range, or both are given.
        """

    @abstractmethod
    def synthesis(self, w_BW: Tensor, *, noise_B: Tensor | None = None) -> Tensor:
        """Renders faces of shape (B, 3, H, H): RGB, float32, in [-1, 1].

        Args:
            w_BW: Latents in W. Any real numbers are allowed: re-sampling leaves the distribution.
            noise_B: One number in [0, 1) a face that seeds its per-pixel noise. None: a fixed noise,
                so that the image is a function of w alone.
        """

    @torch.no_grad()
    def fixed_faces(self, number: int) -> Tensor:
        """The same faces whenever they are asked for, (number, 3, H, H). For a generator on the CPU."""
        rng = torch.Generator().manual_seed(FIXED_SEED)
        z_BZ = torch.randn(number, self.z_dim, generator=rng)
        noise_B = torch.rand(number, generator=rng)
        return self.synthesis(self.mapping(z_BZ), noise_B=noise_B)
