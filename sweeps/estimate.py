"""How long a step of a trial takes on this machine, found by taking a few."""

import contextlib
import multiprocessing
import os
import statistics
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from distill.config import TrialConfig
from distill.methods import LabelledSettings
from distill.training.loop import Trainer
from distill.training.parts import frozen_parts
from distill.training.process import Process

TIMEOUT_S = 60.0
"""The process, its faces and its teacher must be there, and the steps taken, by then."""
TIMED_S = 2.0
WARM_STEPS = 2
IMAGES = 512
"""Images of a labelled set that is drawn for nothing but this."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a worker of a trial takes here.

    Attributes:
        step_s: Seconds of an optimiser step, the median, on the worker's share of a batch.
        evaluation_s: Seconds of measuring the student after an epoch.
        num_steps: How many steps were timed.
        num_threads: CPU threads that it had.
        device: What it ran on: `cpu`, or the name of a GPU.
    """

    step_s: float
    evaluation_s: float
    num_steps: int
    num_threads: int
    device: str

    def __str__(self) -> str:
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        place = f"{threads} of this machine" if self.device == "cpu" else f"this machine's {self.device}"
        return (
            f"a step takes {1000 * self.step_s:.0f} ms and an evaluation {self.evaluation_s:.1f} s, "
            f"timed over {self.num_steps} steps on {place}"
        )


def measure(config: TrialConfig, *, num_threads: int, num_workers: int = 1) -> Measurement | str:
    """Takes a few steps of a trial in a process of its own, which is ended after `TIMEOUT_S`.

    Args:
        num_threads: CPU threads of a worker.
        num_workers: Workers that share each batch. The steps are those of one of them, which exchanges no
            gradients.

    Returns:
        What they took, or why they could not be taken.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(there, config, num_threads, num_workers), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(TIMEOUT_S):
            return f"the first steps of a trial took more than {TIMEOUT_S:.0f} s on this machine"
        return here.recv()
    except EOFError:
        return f"the first steps of a trial ended their process with {process.exitcode}"
    finally:
        process.kill()
        process.join()
        here.close()


def _measure(answer: Connection, config: TrialConfig, num_threads: int, num_workers: int) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        try:
            torch.set_num_threads(num_threads)
            answer.send(_timed(_shortened(config, num_workers), num_threads))
        except Exception as error:  # whatever files and networks of the user's raise
            answer.send(f"a trial does not start here ({' '.join(str(error).split())})")


def _timed(config: TrialConfig, num_threads: int) -> Measurement:
    process = Process.current()
    trainer = Trainer(config, frozen_parts(config.faces, config.teacher, process.device), process)
    for _ in range(WARM_STEPS):
        trainer.train_epoch()
    began, steps_s = time.perf_counter(), []
    while sum(steps_s) < TIMED_S:
        trainer.train_epoch()
        steps_s.append(time.perf_counter() - began - sum(steps_s))
    began = time.perf_counter()
    trainer.evaluate()
    return Measurement(
        step_s=statistics.median(steps_s),
        evaluation_s=time.perf_counter() - began,
        num_steps=len(steps_s),
        num_threads=num_threads,
        device=torch.cuda.get_device_name(process.device) if process.device.type == "cuda" else "cpu",
    )


def _shortened(config: TrialConfig, num_workers: int) -> TrialConfig:
    """The same trial with epochs of one step, on a worker's share of a batch, and a set of a few classes."""
    share = max(1, config.training.batch_size // num_workers)
    one_step = {"batch_size": share, "faces_per_epoch": share, "epochs": 10**6}
    method = config.method
    if isinstance(method, LabelledSettings) and config.faces.draws:
        enough = max(share, -(-max(IMAGES, 2 * share) // method.fewest_images_per_class()))
        method = method.model_copy(update={"num_classes": min(method.num_classes, enough)})
    training = config.training.model_copy(update=one_step)
    return config.model_copy(update={"training": training, "method": method})
