"""One trial: a student learns from a frozen teacher, epoch by epoch.

A plain function. The cluster, the search and the tracker arrive as `report`; see `distill.training.worker`
for how Ray calls it.
"""

import math
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from distill.checkpoint import BEST, load_state, save_state, save_student
from distill.config import ScheduleSettings, TrialConfig
from distill.errors import DivergenceError
from distill.evaluation import evaluate_agreement, evaluate_verification, static_efficiency
from distill.losses import LossContext
from distill.outputs import ModelOutputs
from distill.training.parts import IMAGE_LAYOUT, Parts, frozen_parts, moved
from distill.training.process import Process

FINITE_EVERY_STEPS = 100
"""How often the running loss is looked at: each look makes a GPU wait for the CPU."""


class Report(Protocol):
    """Told the metrics of every epoch, and the folder that holds what can be continued and evaluated."""

    def __call__(self, metrics: dict[str, float], checkpoint: Path) -> None: ...


def train(
    config: TrialConfig,
    *,
    report: Report,
    directory: Path,
    continue_from: Path | None = None,
    process: Process | None = None,
) -> dict[str, float]:
    """Trains a student and keeps its best weights.

    Continues from the last finished epoch when `directory` holds one, so a trial that is started again
    after a crash repeats at most the epoch that it was in. The same config gives the same student, in
    whichever process it runs.

    Args:
        config: What to train, on what, and how.
        report: Called once an epoch with every metric, `epoch` (counted from 1) among them.
        directory: Where the trial's state and its best student are kept.
        continue_from: Another trial's directory whose state is taken over when this one has none yet.
        process: The process this runs in. None: the one that torch.distributed describes.

    Returns:
        The metrics of the best epoch, by `config.selection`.

    Raises:
        InputError: If the teacher does not load whole.
        DivergenceError: If a loss or a metric is not finite. Nothing of that epoch is reported or kept.
    """
    process = process or Process.current()
    directory.mkdir(parents=True, exist_ok=True)
    parts = frozen_parts(config.faces, config.teacher, process.device)
    trainer = Trainer(config, parts, process)
    state = load_state(directory) or (load_state(continue_from) if continue_from else None)
    best = trainer.restore(state) if state else {}

    for epoch in range(trainer.epochs_done + 1, config.training.epochs + 1):
        metrics = {"epoch": float(epoch), **trainer.train_epoch()}
        if process.leads:
            metrics |= trainer.evaluate()
            _refuse_non_finite(metrics)
            if not best or config.selection.better(_selected(config, metrics), _selected(config, best)):
                best = metrics
                save_student(
                    trainer.student,
                    directory / BEST,
                    student=config.student,
                    embedding_dim=parts.teacher.embedding_dim,
                    size_px=config.faces.size_px,
                    epoch=epoch,
                    metrics=metrics,
                    teacher_digest=parts.teacher.digest,
                )
            save_state(trainer.state(best), directory)
            report(metrics, directory)
        process.wait()
    return best


class Trainer:
    """A student in training: its optimiser, its method, and where they are."""

    def __init__(self, config: TrialConfig, parts: Parts, process: Process):
        torch.manual_seed(config.seed)
        self._config = config
        self._parts = parts
        self._process = process
        width = parts.teacher.embedding_dim
        student = config.student.build(embedding_dim=width, size_px=config.faces.size_px)
        self.student = moved(student, process.device)
        self._shared = process.share(self.student)
        losses = config.losses if config.losses.named() else config.method.published_losses
        self._losses = losses.build(LossContext(student_dim=width, teacher_dim=width)).to(process.device)
        self._method = config.method.build(
            parts.generator,
            batch_size=config.training.batch_size,
            seed=config.seed,
            shard=process.shard,
            device=process.device,
        )
        optimizer = config.optimizer
        self._optimizer = torch.optim.AdamW(
            [*self.student.parameters(), *self._losses.parameters()],
            lr=optimizer.lr,
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self._step = 0

    @property
    def epochs_done(self) -> int:
        """Finished epochs."""
        return self._step // self._config.training.steps_per_epoch

    def train_epoch(self) -> dict[str, float]:
        """Takes one epoch's optimiser steps; returns means over them, by metric name."""
        training = self._config.training
        means, lr = _Means(), self._config.optimizer.lr
        began = time.perf_counter()
        self.student.train()
        for step in range(1, training.steps_per_epoch + 1):
            lr = self._set_learning_rate()
            terms = self._take_step(means)
            if step % FINITE_EVERY_STEPS == 0 or step == training.steps_per_epoch:
                _refuse_non_finite({f"train/loss/{name}": float(term) for name, term in terms.items()})
        seconds = time.perf_counter() - began
        return {
            **{f"train/{name}": value for name, value in means.values().items()},
            "train/lr": lr,
            "train/faces_per_second": training.steps_per_epoch * training.batch_size / seconds,
        }

    def evaluate(self) -> dict[str, float]:
        """Measures the student on held-out identities and against the teacher; restores its mode."""
        parts = self._parts
        return {
            **evaluate_verification(self.student, parts.validation, prefix="validation"),
            **evaluate_agreement(
                self.student, parts.agreement_faces, parts.agreement_embeddings, prefix="validation"
            ),
            **static_efficiency(self.student, size_px=self._config.faces.size_px),
        }

    def state(self, best: dict[str, float]) -> dict[str, Any]:
        """Everything needed to continue after this epoch."""
        return {
            "step": self._step,
            "student": self.student.state_dict(),
            "losses": self._losses.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "method": self._method.state_dict(),
            "best": best,
        }

    def restore(self, state: dict[str, Any]) -> dict[str, float]:
        """Continues from `state`'s result; returns the metrics of the best epoch so far."""
        self._step = state["step"]
        self.student.load_state_dict(state["student"])
        self._losses.load_state_dict(state["losses"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._method.load_state_dict(state["method"])
        return state["best"]

    def _take_step(self, means: "_Means") -> dict[str, Tensor]:
        """One batch, one optimiser step. Returns the weighted loss terms."""
        with torch.no_grad():
            images = self._method.next_batch().images.contiguous(memory_format=IMAGE_LAYOUT)
            teacher_BD = self._parts.teacher(images)
        student_BD = self._shared(images)
        terms = self._losses(
            student=ModelOutputs(embedding=student_BD), teacher=ModelOutputs(embedding=teacher_BD)
        )
        loss = torch.stack(list(terms.values())).sum()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._step += 1
        with torch.no_grad():
            observed = self._method.observe(student_BD=student_BD.detach(), teacher_BD=teacher_BD)
        terms = {name: term.detach() for name, term in terms.items()}
        means.add(
            {"loss": loss.detach(), **{f"loss/{name}": term for name, term in terms.items()}, **observed}
        )
        return terms

    def _set_learning_rate(self) -> float:
        training = self._config.training
        lr = self._config.optimizer.lr * learning_rate_share(
            self._config.schedule,
            step=self._step,
            steps_per_epoch=training.steps_per_epoch,
            epochs=training.epochs,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        return lr


def learning_rate_share(schedule: ScheduleSettings, *, step: int, steps_per_epoch: int, epochs: int) -> float:
    """What share of the first learning rate the step after `step` others is taken with."""
    match schedule.name:
        case "constant":
            return 1.0
        case "step":
            return schedule.gamma ** (step // steps_per_epoch // schedule.step_epochs)
        case "cosine":
            progress = step / (steps_per_epoch * epochs)
            return schedule.final_share + (1 - schedule.final_share) * (1 + math.cos(math.pi * progress)) / 2


class _Means:
    """Running means that stay on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, scalars: dict[str, Tensor]) -> None:
        for name, scalar in scalars.items():
            self._sums[name] = self._sums[name] + scalar if name in self._sums else scalar
            self._counts[name] = self._counts.get(name, 0) + 1

    def values(self) -> dict[str, float]:
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}


def _selected(config: TrialConfig, metrics: dict[str, float]) -> float:
    name = config.selection.metric
    if name not in metrics:
        raise ValueError(
            f"selection.metric must be one that is reported ({', '.join(metrics)}), got {name!r}"
        )
    return metrics[name]


def _refuse_non_finite(metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise DivergenceError(f"{name} is {value}: the training diverged")


__all__ = ["Report", "Trainer", "learning_rate_share", "train"]
