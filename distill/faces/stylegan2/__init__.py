"""StyleGAN2 generators: `convert` makes files of NVIDIA's pickles, once, and trials load only those."""

from distill.faces.stylegan2.generator import Crop, NoiseMode, StyleGAN2
from distill.faces.stylegan2.load import GeneratorCard, load_generator, read_card

__all__ = ["Crop", "GeneratorCard", "NoiseMode", "StyleGAN2", "load_generator", "read_card"]
