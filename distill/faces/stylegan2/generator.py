"""StyleGAN2 as a source of faces.

The faces are those of SynthDistill (Otroshi Shahreza et al., IJCB 2023, https://arxiv.org/abs/2308.14852):
FFHQ's alignment puts the eyes always in the same place, so a fixed crop brings them to where recognisers
expect them, and no detector is needed.

B: batch, Z, W: widths of the two latents
"""

import hashlib
import itertools
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.faces.base import FaceGenerator
from distill.faces.stylegan2.network import Network
from distill.faces.stylegan2.noise import face_noise

NoiseMode = Literal["random", "const", "none"]
Crop = Literal["ffhq", "none"]
MAX_PIXELS = 2**22  # that are drawn at a time: 64 images of 256 px, 4 of 1024 px


class Box(NamedTuple):
    """A part of an image, in pixels; `bottom` and `right` are the first that are outside."""

    top: int
    bottom: int
    left: int
    right: int


def face_box(resolution: int) -> Box:
    """The part of an FFHQ image that becomes a face as ArcFace's teachers know it.

    Eyes of FFHQ lie in row 480 and columns 380 and 650 of 1024; in a face of 112 px, in row 51.6 and columns
    38.2946 and 73.5318. All pixels are cut to whole ones, as the published code does.

    Raises:
        ValueError: If the box is not inside the image.
    """
    row, left_eye, right_eye = (place * resolution // 1024 for place in (480, 380, 650))
    scale = (right_eye - left_eye) / (73.5318 - 38.2946)
    top, left = row - 51.6 * scale, left_eye - 38.2946 * scale
    box = Box(*(int(edge) for edge in (top, top + 112 * scale, left, left + 112 * scale)))
    if min(top, left) < 0 or max(box.bottom, box.right) > resolution:
        raise ValueError(f"the face of an image of {resolution} px lies partly outside of it: {box}")
    return box


class StyleGAN2(FaceGenerator):
    """Faces that a StyleGAN2 draws, cut out of its images.

    Its sums are ordered by the batch, so a face in another batch is the same but for rounding.

    A conditional network draws one identity a class. Where no class is given, one more entry of z chooses it,
    evenly, so that the rest of z says nothing about it.

    Args:
        network: With its weights.
        sha256: Digest of the file they come from.
        size_px: Side of the faces.
        psi: Truncation of w towards its mean, 1 being none. The paper takes none.
        noise: What is added to the layers: `random`, the face's own, as in the paper; `const`, the stored one
            for every face; `none`. Without numbers to seed it, `random` is `const`.
        antialias: Whether pixels are averaged as far as the face is reduced. The paper, which reduces 213 px
            to 112, does not, and it hardly shows. Reducing 858 px (of 1024) to 112, or 213 to 32, leaves most
            pixels out: hair and edges turn into noise.
        crop: `ffhq` cuts out `face_box`; `none` takes images whole, of a generator that was trained on faces
            as they are aligned for recognition.
    """

    def __init__(
        self,
        network: Network,
        *,
        sha256: str,
        size_px: int,
        psi: float = 1.0,
        noise: NoiseMode = "random",
        antialias: bool = False,
        crop: Crop = "ffhq",
    ):
        super().__init__()
        architecture = network.architecture
        # With channels together in memory a batch takes a third less time on a CPU. The stubs of torch leave
        # this argument out.
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.network = network.eval().requires_grad_(False)
        self.size_px, self._psi, self._noise, self._antialias = size_px, psi, noise, antialias
        self.num_classes, self.group_names = architecture.c_dim, ()
        self.z_dim = architecture.z_dim + (1 if self.num_classes else 0)
        self.w_dim = architecture.w_dim
        side_px = architecture.resolution
        self._box = face_box(side_px) if crop == "ffhq" else Box(0, side_px, 0, side_px)
        looks = ("stylegan2", sha256, size_px, float(psi), noise, antialias, tuple(self._box))
        self.digest = hashlib.sha256(repr(looks).encode()).hexdigest()

    def mapping(
        self, z_BZ: Tensor, *, classes_B: Tensor | None = None, groups_B: Tensor | None = None
    ) -> Tensor:
        if groups_B is not None:
            raise ValueError("groups_B must not be given: StyleGAN2 knows no groups")
        if not self.num_classes:
            if classes_B is not None:
                raise ValueError("classes_B must not be given: this StyleGAN2 is unconditional")
            return self.network.mapping(z_BZ, psi=self._psi)
        if classes_B is None:
            quantile_B = torch.special.ndtr(z_BZ[:, -1].double())
            classes_B = (quantile_B * self.num_classes).long().clamp(max=self.num_classes - 1)
        elif ((classes_B < 0) | (classes_B >= self.num_classes)).any():
            low, high = (int(index) for index in classes_B.aminmax())
            raise ValueError(f"classes_B must lie in [0, {self.num_classes}), got {low} to {high}")
        return self.network.mapping(z_BZ[:, :-1], classes_B, psi=self._psi)

    def synthesis(self, w_BW: Tensor, *, noise_B: Tensor | None = None) -> Tensor:
        at_a_time = max(1, MAX_PIXELS // self.network.architecture.resolution**2)
        seeds = itertools.repeat(None) if noise_B is None else noise_B.split(at_a_time)
        return torch.cat(
            [self._faces(w, seed) for w, seed in zip(w_BW.split(at_a_time), seeds, strict=False)]
        )

    def _faces(self, w_BW: Tensor, seed_B: Tensor | None) -> Tensor:
        def noise(layer: int, stored: Tensor) -> Tensor | None:
            if self._noise == "none":
                return None
            if self._noise == "const" or seed_B is None:
                return stored
            return face_noise(seed_B, layer=layer, side_px=len(stored))

        ws_BLW = w_BW.unsqueeze(1).expand(-1, self.network.architecture.num_ws, -1)
        images = self.network.synthesis(ws_BLW, noise).clamp(-1, 1)
        top, bottom, left, right = self._box
        faces = F.interpolate(
            images[:, :, top:bottom, left:right],
            size=(self.size_px, self.size_px),
            mode="bilinear",
            align_corners=False,
            antialias=self._antialias,
        )
        return faces.clamp_(-1, 1)  # interpolated weights add up to 1 but for rounding
