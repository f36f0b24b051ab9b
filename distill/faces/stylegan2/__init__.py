"""StyleGAN2 generators: `convert` makes files of NVIDIA's pickles, once, and trials load only those."""

from distill.faces.stylegan2.generator import NoiseMode, StyleGAN2
from distill.faces.stylegan2.load import load_generator

__all__ = ["NoiseMode", "StyleGAN2", "load_generator"]
