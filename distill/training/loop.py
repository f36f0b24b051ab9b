"""One trial: a student learns from a frozen teacher, epoch by epoch.

A plain function. The cluster, the search and the tracker arrive as `report`; see `distill.training.worker`
for how Ray calls it.
"""

import functools
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distill.checkpoint import BEST, add_note, clear_rests, copy_student, load_state, save_state, save_student
from distill.config import ScheduleSettings, TrialConfig
from distill.errors import DivergenceError
from distill.evaluation import evaluate_agreement, evaluate_pairs, static_efficiency
from distill.losses import LossContext, LossesSettings
from distill.losses.classifier import MarginClassifier
from distill.maps import StageMaps, map_shapes
from distill.methods import Batch, MethodContext
from distill.outputs import ModelOutputs
from distill.training.learner import Learner
from distill.training.parts import IMAGE_LAYOUT, Parts, frozen_parts, moved
from distill.training.portions import portions, refuse_small_portions
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
    told_epochs: int | None = None,
    process: Process | None = None,
    cache: Path | None = None,
) -> dict[str, float]:
    """Trains a student and keeps its best weights.

    Continues from the last finished epoch when `directory` holds one, so a trial that is started again
    after a crash repeats at most the epoch that it was in. Where the state of that epoch is damaged, it
    continues from the one before, or begins anew, and says so in the notes that
    `distill.checkpoint.read_notes` reads. The same config gives the same student, in whichever process it
    runs.

    Args:
        config: What to train, on what, and how.
        report: Called once an epoch with every metric, `epoch` (counted from 1) among them.
        directory: Where the trial's state and its best student are kept. Of several processes, the one that
            leads reads and writes it.
        continue_from: Another trial's directory whose state is taken over when this one has none yet, and
            its best student with it.
        told_epochs: How many epochs were heard of. Those beyond that the state has are reported first: who
            trained them may have died, or whoever listened. None: all were.
        process: The process this runs in. None: the one that torch.distributed describes.
        cache: A folder, local or shared, where the teacher's embeddings of finite sets are kept for all
            trials. None: they are kept in memory.

    Returns:
        The metrics of the best epoch, by `config.selection`.

    Raises:
        InputError: If the teacher does not load whole, or the cache cannot be written.
        DivergenceError: If a loss or a metric is not finite. Nothing of that epoch is reported or kept.
    """
    process = process or Process.current()
    directory.mkdir(parents=True, exist_ok=True)
    parts = frozen_parts(config.faces, config.teacher, process.device)
    trainer = Trainer(config, parts, process, cache=cache)
    # The others' disks may know of another epoch: who began behind would wait for ever for who is done.
    state = process.from_leader(lambda: _state_left(directory, continue_from))
    best = trainer.restore(state) if state else {}
    history: list[dict[str, float]] = state.get("history", []) if state else []
    if process.leads and told_epochs is not None:
        for metrics in history:
            if metrics["epoch"] > told_epochs:
                report(metrics, directory)

    for epoch in range(trainer.epochs_done + 1, config.training.epochs + 1):
        metrics = {"epoch": float(epoch), **trainer.train_epoch()}
        state = trainer.state()
        if process.leads:
            metrics |= trainer.evaluate()
            _refuse_non_finite(metrics)
            if not best or config.selection.better(_selected(config, metrics), _selected(config, best)):
                best = metrics
                save_student(
                    trainer.student,
                    directory / BEST,
                    student=config.student,
                    embedding_dim=trainer.embedding_dim,
                    size_px=config.faces.size_px,
                    captured_px=config.faces.captured_px,
                    epoch=epoch,
                    metrics=metrics,
                    teacher_digest=parts.teacher.digest,
                )
            history = [*history, metrics]
            save_state({**state, "best": best, "history": history}, directory)
            report(metrics, directory)
        process.wait()
    return best


class Trainer:
    """A student in training: its optimiser, its method, and where they are."""

    def __init__(self, config: TrialConfig, parts: Parts, process: Process, *, cache: Path | None = None):
        refuse_small_portions(config, num_processes=process.shard.world_size)
        self._config = config
        self._parts = parts
        self._process = process
        self._autocast = functools.partial(
            torch.autocast,
            process.device.type,
            dtype=torch.bfloat16,
            enabled=config.training.precision == "bfloat16",
        )
        context = MethodContext(
            faces=config.faces,
            generator=parts.generator,
            teacher=parts.teacher,
            batch_size=config.training.batch_size,
            seed=config.seed,
            shard=process.shard,
            device=process.device,
            cache=cache,
        )
        self._method = config.method.build(context)
        self._target = self._method.target
        self.embedding_dim = config.student_dim()
        needs = {need for loss in config.losses_in_use().values() for need in loss.needs}
        self._compares_maps, self._compares_centres = "feature_maps" in needs, "teacher_centres" in needs
        self._target_stages = StageMaps(self._target.stages) if self._compares_maps else None
        torch.manual_seed(config.seed)
        self._learner = moved(self._make_learner(), process.device)
        self.student = self._learner.student
        self._shared = process.share(self._learner)
        self._optimizer = config.optimizer.build(self._learner.parameters())
        self._agreement_ND = self._embedded_by_target() if config.imitates_in_full() else None
        # Nothing but a trial that says so measures a student in training on the benchmark.
        self._benchmark = config.faces.benchmark_pairs() if config.selection.pairs == "benchmark" else None
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
        self._learner.train()
        for step in range(1, training.steps_per_epoch + 1):
            lr = self._set_learning_rate()
            losses = self._take_step(means)
            if step % FINITE_EVERY_STEPS == 0 or step == training.steps_per_epoch:
                _refuse_non_finite({f"train/{name}": float(loss) for name, loss in losses.items()})
        seconds = time.perf_counter() - began
        return {
            **{f"train/{name}": value for name, value in means.values().items()},
            "train/lr": lr,
            "train/faces_per_second": training.steps_per_epoch * training.batch_size / seconds,
        }

    def evaluate(self) -> dict[str, float]:
        """Measures the student on held-out identities and against the teacher; restores its mode."""
        parts = self._parts
        metrics = evaluate_pairs(self.student, parts.validation, prefix="validation")
        if self._benchmark is not None:
            metrics |= evaluate_pairs(self.student, self._benchmark, prefix="benchmark")
        if self._agreement_ND is not None:
            metrics |= evaluate_agreement(
                self.student, parts.student_faces, self._agreement_ND, prefix="validation"
            )
        return metrics | static_efficiency(self.student, size_px=self._config.faces.size_px)

    def state(self) -> dict[str, Any]:
        """Everything needed to continue after this epoch, save what was measured. All processes call it."""
        return {
            "step": self._step,
            "learner": self._learner.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "method": self._method.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> dict[str, float]:
        """Continues from `state`'s result; returns the metrics of the best epoch so far.

        What the optimiser remembers is the state's, how it steps the config's, which may be another.
        """
        self._step = state["step"]
        self._learner.load_state_dict(state["learner"])
        asked = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self._optimizer.param_groups
        ]
        self._optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self._optimizer.param_groups, asked, strict=True):
            group.update(settings)
        self._method.load_state_dict(state["method"])
        return state["best"]

    def _take_step(self, means: "_Means") -> dict[str, Tensor]:
        """One batch, one optimiser step. Returns the loss and its weighted terms."""
        with torch.no_grad(), self._autocast():
            batch = self._method.next_batch()
        self._optimizer.zero_grad()
        cut = portions(batch, self._config.training.accumulation)
        with self._process.holding_back(self._shared):
            learnt = [self._learn(portion, len(portion.images) / len(batch.images)) for portion in cut[:-1]]
        learnt.append(self._learn(cut[-1], len(cut[-1].images) / len(batch.images)))
        if self._config.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.student.parameters(), self._config.optimizer.clip_norm)
        self._optimizer.step()
        self._step += 1
        student, teacher, losses = zip(*learnt, strict=True)
        with torch.no_grad():
            observed = self._method.observe(student_BD=torch.cat(student), teacher_BD=torch.cat(teacher))
            summed = {name: torch.stack([loss[name] for loss in losses]).sum() for name in losses[0]}
        means.add(summed | observed)
        return summed

    def _learn(self, portion: Batch, share: float) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Adds the gradients of a portion of a batch to those that are there.

        Args:
            share: Of the batch's faces, which its losses count for.

        Returns:
            The embeddings that student and target gave, (B, D), and its share of the loss and its terms.
        """
        with torch.no_grad():
            images = portion.images.float().contiguous(memory_format=IMAGE_LAYOUT)
            teacher = self._ask_teacher(portion, images)
        student_BD, terms = self._shared(images, teacher=teacher, labels_B=portion.labels_B)
        loss = share * torch.stack(list(terms.values())).sum()
        loss.backward()
        losses = {f"loss/{name}": share * term.detach() for name, term in terms.items()}
        return student_BD.detach(), teacher.embedding, losses | {"loss": loss.detach()}

    def _ask_teacher(self, portion: Batch, images: Tensor) -> ModelOutputs:
        """What the target says of faces; it is asked only for what is not known yet."""
        if portion.teacher_BD is not None and self._target_stages is None:
            return ModelOutputs(embedding=portion.teacher_BD)
        seen = images if portion.teacher_images is None else portion.teacher_images
        seen = seen.float().contiguous(memory_format=IMAGE_LAYOUT)
        stages = nullcontext() if self._target_stages is None else self._target_stages
        with self._autocast(), stages:
            embedding_BD = self._target(seen)
        maps = () if self._target_stages is None else self._target_stages.maps
        return ModelOutputs(embedding=embedding_BD.float(), maps=tuple(map_BKHW.float() for map_BKHW in maps))

    def _embedded_by_target(self) -> Tensor:
        """What the target says of the faces that agreement is measured on; the teacher was asked before."""
        parts = self._parts
        if self._target is parts.teacher:
            return parts.agreement_embeddings
        return self._target(parts.agreement_faces)

    def _make_learner(self) -> Learner:
        """Makes all that is trained. The student comes first: its weights depend on the seed alone."""
        config, method, size_px = self._config, self._method, self._config.faces.size_px
        student = config.student.build(embedding_dim=self.embedding_dim, size_px=size_px)
        classifier = None
        if (margin := config.margin_in_use()) is not None:
            assert method.num_classes is not None
            classifier = MarginClassifier(self.embedding_dim, method.num_classes, margin.build())
        context = LossContext(
            student_dim=self.embedding_dim,
            teacher_dim=self._target.embedding_dim,
            num_classes=method.num_classes,
            teacher_centre_CD=method.teacher_centres if self._compares_centres else None,
            student_maps=map_shapes(student, size_px=size_px) if self._compares_maps else (),
            teacher_maps=map_shapes(self._target.stages, size_px=self._target.input_px)
            if self._compares_maps
            else (),
        )
        return Learner(
            student,
            classifier=classifier,
            losses=LossesSettings.assemble(config.losses_in_use(), context),
            compares_maps=self._compares_maps,
            autocast=self._autocast,
        )

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
        case "milestones":
            epoch = step // steps_per_epoch
            return schedule.gamma ** sum(epoch >= milestone for milestone in schedule.milestones)
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


def _state_left(directory: Path, continue_from: Path | None) -> dict[str, Any] | None:
    """What there is to continue from; damages are noted in `directory`."""
    clear_rests(directory)
    tell = functools.partial(add_note, directory)
    state = load_state(directory, tell=tell)
    if state is None and continue_from is not None:
        state = load_state(continue_from, tell=tell)
        if state is not None:
            copy_student(continue_from / BEST, directory / BEST)
    return state


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
