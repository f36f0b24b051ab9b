"""The training loop. `worker` is imported by who needs Ray."""

from distill.training.loop import Report, train
from distill.training.process import Process

__all__ = ["Process", "Report", "train"]
