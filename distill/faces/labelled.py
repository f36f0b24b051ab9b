"""Sets of faces whose identities are known: what labelled distillation trains on.

N: images, C: classes, Z: width of the generator's latent
"""

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distill.errors import InputError
from distill.faces.base import FaceGenerator
from distill.faces.pixels import as_bytes
from distill.faces.store import ImageStore

NUM_SHARED_LATENTS = 1000
RENDER_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class LabelledFaces:
    """Images of C people, several of each.

    Attributes:
        images: RGB, uint8, of shape (N, 3, H, H); or a store, where they are read when they are needed.
        label_N: Who is on each image, int64 in [0, C). Every class has images, and they lie together.
        group_N: Demographic group of each image, int64.
        authentic_N: Whether each image stands for a photograph, bool; the others are generated.
        group_names: What `group_N` indexes.
        digest: SHA-256 of images and labels.
    """

    images: Tensor | ImageStore
    label_N: Tensor
    group_N: Tensor
    authentic_N: Tensor
    group_names: tuple[str, ...]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        content = hashlib.sha256()
        if isinstance(self.images, ImageStore):
            content.update(self.images.digest.encode())
        else:
            content.update(self.images.contiguous().numpy().tobytes())
        content.update(self.label_N.contiguous().numpy().tobytes())
        object.__setattr__(self, "digest", content.hexdigest())

    def __len__(self) -> int:
        return len(self.label_N)

    def read(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Images by index; one that cannot be read is replaced by the next one of its class that can be.

        Returns:
            The images, RGB, uint8, of shape (B, 3, H, H), and the indices (B,) of those that were read, which
            labels and embeddings go by.

        Raises:
            InputError: If no image of a class can be read, or more images of a store than it allows.
        """
        if not isinstance(self.images, ImageStore):
            return self.images[index_B], index_B
        images, readable_B = self.images.read(index_B)
        if not readable_B.all():
            index_B = index_B.clone()
            for place in (~readable_B).nonzero().squeeze(1).tolist():
                images[place], index_B[place] = self._substitute(int(index_B[place]))
        return images, index_B

    def _substitute(self, index: int) -> tuple[Tensor, int]:
        """The next image of the same class that can be read, from its first one on after its last."""
        assert isinstance(self.images, ImageStore)
        own_M = (self.label_N == self.label_N[index]).nonzero().squeeze(1)
        for other in torch.cat([own_M[own_M > index], own_M[own_M < index]]).split(1):
            image, readable = self.images.read(other)
            if readable:
                return image[0], int(other)
        raise InputError(f"none of the {len(own_M)} images of class {int(self.label_N[index])} can be read")

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.label_N[-1]) + 1

    @property
    def first_images(self) -> Tensor:
        """Index of each class's first image, of shape (C,)."""
        return torch.searchsorted(self.label_N, torch.arange(self.num_classes))


def joined(parts: list[LabelledFaces]) -> LabelledFaces:
    """Several sets of images in memory as one. No person of one is in another: classes are numbered on.

    Raises:
        ValueError: If the sets differ in their groups or in the size of their images.
    """
    first, images = parts[0], [part.images for part in parts]
    in_memory = [image for image in images if isinstance(image, Tensor)]
    sizes = {tuple(image.shape[1:]) for image in in_memory}
    if (
        len(in_memory) < len(parts)
        or len(sizes) > 1
        or {part.group_names for part in parts} != {first.group_names}
    ):
        raise ValueError("sets of faces can only be joined in memory, where groups and sizes agree")
    starts = [0, *torch.tensor([part.num_classes for part in parts]).cumsum(0).tolist()]
    return LabelledFaces(
        images=torch.cat(in_memory),
        label_N=torch.cat([part.label_N + start for part, start in zip(parts, starts, strict=False)]),
        group_N=torch.cat([part.group_N for part in parts]),
        authentic_N=torch.cat([part.authentic_N for part in parts]),
        group_names=first.group_names,
    )


@torch.no_grad()
def draw_labelled(
    generator: FaceGenerator, *, classes_C: Tensor, group_C: Tensor, images_per_class: int, authentic: bool
) -> LabelledFaces:
    """Draws every class with several latents out of a thousand that all classes share.

    The latents are those of the seeds 1 to 1000, and each class takes distinct ones. The set is a function of
    its arguments alone.

    Boutros et al., "SFace", IJCB 2022. https://arxiv.org/abs/2206.10520

    Args:
        generator: Class-conditional.
        classes_C: Which of the generator's classes are drawn; the C-th becomes label C.
        group_C: Demographic group of each.
        images_per_class: At most 1,000.
        authentic: Whether the generator's images stand for photographs.

    Raises:
        ValueError: If `images_per_class` is not in [1, 1000].
    """
    if not 1 <= images_per_class <= NUM_SHARED_LATENTS:
        raise ValueError(f"images_per_class must lie in [1, {NUM_SHARED_LATENTS}], got {images_per_class}")
    shared_z = torch.stack(
        [
            torch.randn(generator.z_dim, generator=torch.Generator().manual_seed(seed))
            for seed in range(1, NUM_SHARED_LATENTS + 1)
        ]
    )
    rng = torch.Generator().manual_seed(0)
    choice_N = torch.cat(
        [torch.randperm(NUM_SHARED_LATENTS, generator=rng)[:images_per_class] for _ in classes_C]
    )
    noise_N = torch.rand(len(choice_N), generator=rng)
    class_N = classes_C.repeat_interleave(images_per_class)
    images = [
        as_bytes(generator.synthesis(generator.mapping(shared_z[choice], classes_B=classes), noise_B=noise))
        for choice, classes, noise in zip(
            choice_N.split(RENDER_BATCH),
            class_N.split(RENDER_BATCH),
            noise_N.split(RENDER_BATCH),
            strict=True,
        )
    ]
    return LabelledFaces(
        images=torch.cat(images).cpu(),
        label_N=torch.arange(len(classes_C)).repeat_interleave(images_per_class),
        group_N=group_C.repeat_interleave(images_per_class),
        authentic_N=torch.full((len(class_N),), authentic),
        group_names=generator.group_names,
    )
