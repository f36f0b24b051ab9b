"""StyleGAN2 generators."""

from distill.faces.stylegan2.generator import NoiseMode, StyleGAN2

__all__ = ["NoiseMode", "StyleGAN2"]
