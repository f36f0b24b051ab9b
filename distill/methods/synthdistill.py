"""SynthDistill: distil on generated faces, moving on from each face as far as the student mastered it.

Otroshi Shahreza et al., "SynthDistill: Face Recognition with Knowledge Distillation from Synthetic
Data", IJCB 2023. https://arxiv.org/abs/2308.14852

B: this process's share of the batch, Z and W: widths of the generator's two latents, D: embedding,
Q: quantiles
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill.losses import LossesSettings, RawMSESettings
from distill.losses.gather import gather
from distill.methods.base import Batch, Method, MethodContext, MethodSettings

Resampling = Literal["adaptive_w", "constant_w", "adaptive_z", "inverted_w", "off"]

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}
"""Quantiles of a batch that are observed beside its mean, by the ending of their names."""


def resampling_radius(similarity_B: Tensor, *, resampling: Resampling, resampling_coef: float) -> Tensor:
    """Standard deviation of the step that each latent takes, of shape (B,).

    Args:
        similarity_B: Cosine similarity of student and teacher on each face, in [-1, 1].
        resampling: `adaptive_*` walks further where student and teacher agree, ((cos + 1) / 2) c;
            `inverted_w` further where they do not, (1 - (cos + 1) / 2) c; `constant_w` always c.
        resampling_coef: The paper's c: the radius, in units of the latent, of the longest step.

    Raises:
        ValueError: If `resampling` is `off`, which takes no steps.
    """
    # A diverging student has no similarity. The loop raises soon; until then latents must stay numbers.
    agreement_B = (similarity_B.detach().nan_to_num() + 1) / 2
    match resampling:
        case "adaptive_w" | "adaptive_z":
            return resampling_coef * agreement_B
        case "inverted_w":
            return resampling_coef * (1 - agreement_B)
        case "constant_w":
            return torch.full_like(agreement_B, resampling_coef)
        case "off":
            raise ValueError("resampling is off: latents take no steps")


class SynthDistill(Method):
    """Alternates two optimiser steps: explore fresh latents, then vary those same latents.

    The variation follows the embeddings from before the exploring step. With `off` the second step
    explores too, so that every mode takes as many optimiser steps and sees as many faces. Exploring
    latents come from a random stream of their own: modes that share a seed explore the same faces.
    """

    def __init__(self, context: MethodContext, *, resampling: Resampling, resampling_coef: float):
        self.target = context.teacher
        assert context.generator is not None, "the method needs a generator, which the config checks"
        self._generator = context.generator
        self._resampling: Resampling = resampling
        self._resampling_coef = resampling_coef
        self._batch_size = context.batch_size
        self._rows = context.shard.rows(context.batch_size)
        self._device = context.device
        # Made once: each making would have a GPU wait for the CPU.
        self._quantile_Q = torch.tensor(list(QUANTILES.values()), device=context.device)
        self._exploring = torch.Generator().manual_seed(2 * context.seed)
        self._varying = torch.Generator().manual_seed(2 * context.seed + 1)
        self._explored_z: Tensor | None = None
        self._radius_B: Tensor | None = None

    def next_batch(self) -> Batch:
        if self._radius_B is not None and self._explored_z is not None:
            w_BW, rng = self._vary(self._explored_z, self._radius_B), self._varying
            self._explored_z = self._radius_B = None
        else:
            self._explored_z, rng = self._draw(self._generator.z_dim, self._exploring), self._exploring
            w_BW = self._generator.mapping(self._explored_z)
        noise_B = torch.rand(self._batch_size, generator=rng)[self._rows].to(self._device)
        return Batch(images=self._generator.synthesis(w_BW, noise_B=noise_B))

    def observe(self, *, student_BD: Tensor, teacher_BD: Tensor) -> dict[str, Tensor]:
        """The similarity of both networks and, after an exploring step, the radius of the next one.

        Each by its mean and by its `QUANTILES` over this process's share of the batch. Averaged over an
        epoch, these are means of quantiles, a little closer together than the quantiles of all its faces.
        """
        similarity_B = F.cosine_similarity(student_BD.detach(), teacher_BD)
        scalars = self._spread("similarity", similarity_B)
        if self._explored_z is not None and self._resampling != "off":
            self._radius_B = resampling_radius(
                similarity_B, resampling=self._resampling, resampling_coef=self._resampling_coef
            )
            scalars |= self._spread("resampling_radius", self._radius_B)
        return scalars

    def state_dict(self) -> dict[str, Any]:
        return {
            "exploring": self._exploring.get_state(),
            "varying": self._varying.get_state(),
            # Of the whole batch, since one worker keeps the state for all of them.
            "explored_z": None if self._explored_z is None else gather(self._explored_z),
            "radius": None if self._radius_B is None else gather(self._radius_B),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._exploring.set_state(state["exploring"].cpu())
        self._varying.set_state(state["varying"].cpu())
        self._explored_z, self._radius_B = (
            None if state[name] is None else state[name][self._rows].to(self._device)
            for name in ("explored_z", "radius")
        )

    def _spread(self, name: str, value_B: Tensor) -> dict[str, Tensor]:
        """The mean under `name`, and the quantiles under `name_p10` and so on. They stay on the device."""
        quantile_Q = torch.quantile(value_B, self._quantile_Q)
        ends = {f"{name}_{end}": value for end, value in zip(QUANTILES, quantile_Q.unbind(), strict=True)}
        return {name: value_B.mean(), **ends}

    def _draw(self, width: int, rng: torch.Generator) -> Tensor:
        return torch.randn(self._batch_size, width, generator=rng)[self._rows].to(self._device)

    def _vary(self, z_BZ: Tensor, radius_B: Tensor) -> Tensor:
        """Takes one random step of standard deviation `radius_B` from each explored latent."""
        if self._resampling == "adaptive_z":
            step_BZ = self._draw(self._generator.z_dim, self._varying)
            return self._generator.mapping(z_BZ + radius_B[:, None] * step_BZ)
        step_BW = self._draw(self._generator.w_dim, self._varying)
        return self._generator.mapping(z_BZ) + radius_B[:, None] * step_BW


class SynthDistillSettings(MethodSettings):
    """Label-free distillation on generated faces. No real image and no identity label is used."""

    needs_generator: ClassVar[bool] = True
    published_losses: ClassVar[LossesSettings] = LossesSettings(raw_mse=RawMSESettings())

    name: Literal["synthdistill"] = "synthdistill"
    resampling: Resampling = "adaptive_w"
    """How the second half of the faces is made. adaptive_w is the paper's; off draws fresh ones."""
    resampling_coef: float = Field(default=1.0, ge=0.0)
    """The paper's c: how far, in units of W (or Z), the latent of a perfectly matched face moves. 0 is
    not off: it renders the same latents again with new noise."""

    def build(self, context: MethodContext) -> SynthDistill:
        return SynthDistill(context, resampling=self.resampling, resampling_coef=self.resampling_coef)
