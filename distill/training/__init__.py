"""The training loop. `worker` is imported by who needs Ray."""

from distill.training.loop import Report, train
from distill.training.process import Process
from distill.training.timeout import read_timeout

__all__ = ["Process", "Report", "read_timeout", "train"]
