"""What a trial's loop costs beside its networks, and what it gains over the loop that SynthDistill published.

Both other loops are written from the paper's equations: Otroshi Shahreza et al., "SynthDistill", IJCB 2023,
https://arxiv.org/abs/2308.14852. The bare one is laid out as well as ours: networks in channels-last, our
PReLU and use of memory, a fused optimiser, nothing read back. The published one is plain: float32,
contiguous, torch's PReLU, memory and Adam as they come, the loss and the similarity read after every step.
All draw the same faces, and must come to the same loss. Each loop has a process of its own.

B: batch, Z and W: widths of the generator's two latents, D: embedding
"""

import math
import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.row import Goal, Row, in_turns
from distill.config import TrialConfig
from distill.students.prelu import PReLU
from distill.training import Process
from distill.training.loop import Trainer
from distill.training.memory import keep_freed_memory
from distill.training.parts import frozen_parts

BATCH_SIZE, SIZE_PX = 128, 32
LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-2}
"""Relative: orders of summation differ, or numbers are rounded to eight bits; training carries that on."""
Kind = Literal["ours", "bare", "published"]
Precision = Literal["float32", "bfloat16"]


class Loop(Protocol):
    """What is measured."""

    def train_epoch(self) -> float:
        """Trains an epoch; returns its mean loss."""
        ...


class OurLoop:
    """A trial's."""

    def __init__(self, config: TrialConfig):
        process = Process.current()
        self._trainer = Trainer(config, frozen_parts(config.faces, config.teacher, process.device), process)

    def train_epoch(self) -> float:
        return self._trainer.train_epoch()["train/loss"]


class OtherLoop:
    """SynthDistill's iteration: a step on fresh faces, then one on variations of them.

    Args:
        tuned: Whether it is the bare loop, laid out as ours; else it is the published one.
        device: None: the CPU.
    """

    def __init__(self, config: TrialConfig, *, tuned: bool, device: torch.device | None = None):
        self._device = device or torch.device("cpu")
        self._batch_size = config.training.batch_size
        self._layout = torch.channels_last if tuned else torch.contiguous_format
        self._logs = not tuned
        generator = config.faces.generator()
        assert generator is not None
        self._generator = generator.to(self._device)
        self._teacher = config.teacher.load().to(self._device).to(memory_format=self._layout)  # pyright: ignore[reportCallIssue]
        torch.manual_seed(config.seed)
        student = config.student.build(embedding_dim=config.student_dim(), size_px=config.faces.size_px)
        if not tuned:
            for module in student.modules():
                if isinstance(module, PReLU):
                    module.__class__ = nn.PReLU  # pyright: ignore[reportAttributeAccessIssue] - its base
        self._student = student.to(self._device).to(memory_format=self._layout)  # pyright: ignore[reportCallIssue]
        self._optimizer = torch.optim.Adam(
            self._student.parameters(), lr=config.optimizer.lr, fused=True if tuned else None
        )
        self._exploring = torch.Generator().manual_seed(2 * config.seed)
        self._varying = torch.Generator().manual_seed(2 * config.seed + 1)
        self._num_iterations = config.training.steps_per_epoch // 2

    def train_epoch(self) -> float:
        """Trains as many faces as an epoch of ours; returns the mean loss."""
        self._student.train()
        losses = []
        for _ in range(self._num_iterations):
            z_BZ = torch.randn(self._batch_size, self._generator.z_dim, generator=self._exploring)
            z_BZ = z_BZ.to(self._device)
            with torch.no_grad():
                w_BW = self._generator.mapping(z_BZ)
            loss, similarity_B = self._step(w_BW, self._exploring)
            radius_B = (similarity_B + 1) / 2
            step_BW = torch.randn(w_BW.shape, generator=self._varying).to(self._device)
            varied_loss, _ = self._step(w_BW + radius_B[:, None] * step_BW, self._varying)
            losses += [loss, varied_loss]
        return float(torch.tensor(losses).mean())

    def _step(self, w_BW: Tensor, rng: torch.Generator) -> tuple[Tensor | float, Tensor]:
        noise_B = torch.rand(self._batch_size, generator=rng).to(self._device)
        with torch.no_grad():
            images = self._generator.synthesis(w_BW, noise_B=noise_B).contiguous(memory_format=self._layout)
            teacher_BD = self._teacher(images)
        student_BD = self._student(images)
        loss = F.mse_loss(student_BD, teacher_BD)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        similarity_B = F.cosine_similarity(student_BD.detach(), teacher_BD)
        if not self._logs:
            return loss.detach(), similarity_B
        similarity_B.mean().item()  # what the published loop logs
        return loss.item(), similarity_B


def measure(quick: bool) -> list[Row]:
    """One thread for all, as a trial has that is given one CPU."""
    config = trial(num_faces=(2 if quick else 8) * BATCH_SIZE)
    bare, bare_loop = _compare("bare", config, repetitions=1 if quick else 25)
    published, published_loop = _compare("published", config, repetitions=1 if quick else 15)
    bfloat16 = trial(num_faces=config.training.faces_per_epoch, precision="bfloat16")
    short, short_loop = _compare("published", bfloat16, repetitions=1 if quick else 15)
    return [
        Row(
            name="training_loop",
            what=f"a trial's training loop ({SIZE_PX} px, bridge_tiny)",
            unit="images a second",
            ours=bare,
            other=bare_loop,
            against="a bare loop, laid out as well",
            goal=Goal(side="at least", bound=0.97),
            note="one thread; the loop that trials run: faces drawn, teacher asked, student "
            "trained, metrics of every step averaged; equal losses",
        ),
        Row(
            name="synthdistill_cpu",
            what=f"SynthDistill on CPU ({SIZE_PX} px, bridge_tiny)",
            unit="images a second",
            ours=published,
            other=published_loop,
            against="the published loop",
            goal=Goal(side="at least", bound=1.5),
            note="one thread; contiguous there, float32 on both sides; equal losses",
        ),
        Row(
            name="synthdistill_cpu_bfloat16",
            what="the same with training.precision: bfloat16",
            unit="images a second",
            ours=short,
            other=short_loop,
            against="the published loop",
            goal=Goal(side="at least", bound=1.5),
            note="one thread; contiguous and float32 there; losses within 1 %",
        ),
    ]


def trial(*, num_faces: int, precision: Precision = "float32") -> TrialConfig:
    """SynthDistill with as many faces an epoch."""
    return TrialConfig.model_validate(
        {
            "faces": {"name": "embedded", "size_px": SIZE_PX},
            "student": {"name": "bridge_tiny"},
            "method": {"name": "synthdistill"},
            "training": {
                "epochs": 1000,
                "faces_per_epoch": num_faces,
                "batch_size": BATCH_SIZE,
                "precision": precision,
            },
            "schedule": {"name": "constant"},
        }
    )


def _compare(other: Kind, config: TrialConfig, *, repetitions: int) -> tuple[list[float], list[float]]:
    """Images a second of our loop and of another.

    Both train an epoch first to warm up, in which they must come to the same loss.
    """
    with _started("ours", config) as ours, _started(other, config) as theirs:
        losses = _epoch(ours)[0], _epoch(theirs)[0]
        if not math.isclose(*losses, rel_tol=LOSS_TOLERANCE[config.training.precision]):
            raise AssertionError(f"the two loops must train alike, got losses {losses}")
        return in_turns(lambda: _epoch(ours)[1], lambda: _epoch(theirs)[1], repetitions=repetitions)


@contextmanager
def _started(kind: Kind, config: TrialConfig) -> Iterator[Connection]:
    """A process that trains an epoch whenever it is asked to."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, kind, config.model_dump(mode="json")), daemon=True)
    process.start()
    there.close()  # so that the end of the process is the end of what can be read
    try:
        yield here
    finally:
        here.close()
        process.join()


def _epoch(connection: Connection) -> tuple[float, float]:
    """The loss of one more epoch, and its images a second."""
    connection.send("train")
    return connection.recv()


def _serve(connection: Connection, kind: Kind, plain_config: dict[str, object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends who asks, and that ends this
    torch.set_num_threads(1)
    config = TrialConfig.model_validate(plain_config)
    if kind != "published":
        keep_freed_memory()
    loop: Loop = OurLoop(config) if kind == "ours" else OtherLoop(config, tuned=kind == "bare")
    with suppress(EOFError, BrokenPipeError):  # nobody asks any more
        while True:
            connection.recv()
            began = time.perf_counter()
            loss = loop.train_epoch()
            seconds = time.perf_counter() - began
            connection.send((loss, config.training.steps_per_epoch * BATCH_SIZE / seconds))
