"""What one trial is, in one frozen object: every knob that a search space may turn has a field here."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

import torch
import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from torch import nn

from distill.errors import InputError
from distill.faces import AnyFacesSettings, EmbeddedFacesSettings
from distill.losses import LossesSettings, LossSettings
from distill.losses.margins import AnyMarginSettings
from distill.methods import AnyMethodSettings, LabelledSettings, MethodSettings, SynthDistillSettings
from distill.settings import Settings, override
from distill.students import AnyStudentSettings, BridgeTinySettings
from distill.teachers import AnyTeacherSettings, EmbeddedTeacherSettings


class OptimizerSettings(Settings):
    """Adam, as SynthDistill uses it, or SGD with momentum, as margin losses are usually trained."""

    name: Literal["adam", "sgd"] = "adam"
    """adam: with decoupled weight decay. sgd: with momentum."""
    lr: PositiveFloat = 1e-3
    """Learning rate of the first step; the schedule lowers it from there."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Weight decay, decoupled in adam. 0 in SynthDistill, 5e-4 where margins are trained by sgd."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of adam's moments, each in [0, 1)."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Momentum of sgd."""
    clip_norm: PositiveFloat | None = None
    """Norm that the student's gradient is cut to; 5 in SFace and fair KD. Unset: it stays as it is."""

    @model_validator(mode="after")
    def _betas_are_rates(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must each lie in [0, 1), got {self.betas}")
        return self

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Makes the optimiser of these parameters."""
        if self.name == "adam":
            return torch.optim.AdamW(
                parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True
            )
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=True
        )


class ScheduleSettings(Settings):
    """How the learning rate falls over the epochs."""

    name: Literal["constant", "step", "milestones", "cosine"] = "cosine"
    """cosine: to `final_share` over all epochs, step by step. step: by `gamma` every `step_epochs`.
    milestones: by `gamma` after each of `milestones`."""
    step_epochs: PositiveInt = 10
    """Epochs between two drops of `step`; 10 in SynthDistill."""
    gamma: float = Field(default=0.5, gt=0.0, le=1.0)
    """What a drop multiplies the rate with; 0.5 in SynthDistill, 0.1 where margins are trained by sgd."""
    milestones: tuple[PositiveInt, ...] = ()
    """Epochs after which `milestones` drops the rate; 8, 14, 20 and 25 of 26 in fair KD."""
    final_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the first learning rate that `cosine` ends with."""


class TrainingSettings(Settings):
    """How long and in what portions a student is trained."""

    epochs: PositiveInt = 21
    """Evaluations and reports in a full trial; 21 in SynthDistill."""
    faces_per_epoch: PositiveInt = 1_999_872
    """Faces that the student sees between two reports; half of them re-samples in SynthDistill."""
    batch_size: PositiveInt = 128
    """Faces in one optimiser step, over all workers."""
    accumulation: PositiveInt = 1
    """Portions that each worker trains its share of a batch in, one after the other, where memory is short.
    Their gradients add up to those of the whole batch, but what looks at several faces at once, batch norm
    and the losses that compare faces, sees a portion at a time."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: networks run in mixed precision, faster on GPUs that have it. Weights stay float32, and
    embeddings are compared and students evaluated in it."""

    @model_validator(mode="after")
    def _an_epoch_holds_a_step(self) -> Self:
        if self.faces_per_epoch < self.batch_size:
            raise ValueError(
                f"faces_per_epoch must be at least batch_size ({self.batch_size}), got {self.faces_per_epoch}"
            )
        return self

    @model_validator(mode="after")
    def _a_portion_holds_a_face(self) -> Self:
        if self.accumulation > self.batch_size:
            raise ValueError(
                f"accumulation must be at most batch_size ({self.batch_size}), got {self.accumulation}"
            )
        return self

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps between two reports."""
        return self.faces_per_epoch // self.batch_size


class SelectionSettings(Settings):
    """Which epoch's checkpoint is a trial's best."""

    metric: str = "validation/verification_accuracy"
    """A metric that every report carries. In a sweep it is the first objective."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Whether more or less of it is better."""
    pairs: Literal["validation", "benchmark"] = "validation"
    """benchmark: every epoch is measured on the benchmark too, and may be selected by it. What it then says
    of the selected student is too good: it is no result."""

    @model_validator(mode="after")
    def _never_on_the_benchmark_unless_told(self) -> Self:
        if self.metric.startswith("benchmark/") and self.pairs != "benchmark":
            raise ValueError(
                f"metric must not be measured on the benchmark, which only what was selected may see, "
                f"got {self.metric!r}"
            )
        return self

    def better(self, candidate: float, incumbent: float) -> bool:
        """Whether `candidate` beats `incumbent`; equal values do not."""
        return candidate > incumbent if self.direction == "maximize" else candidate < incumbent


class TrialConfig(Settings):
    """One trial: everything that decides its outcome.

    Dotted names of these fields (`optimizer.lr`, `method.resampling_coef`) are the parameter names in
    search spaces, Optuna and MLflow.
    """

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the student's first weights and of every face that it is shown."""
    faces: AnyFacesSettings = EmbeddedFacesSettings()
    """Where training faces, validation pairs and benchmark pairs come from."""
    teacher: AnyTeacherSettings = EmbeddedTeacherSettings()
    """The frozen network that is imitated."""
    student: AnyStudentSettings = BridgeTinySettings()
    """The network that is trained."""
    method: AnyMethodSettings = SynthDistillSettings()
    """How batches of faces become loss terms."""
    losses: LossesSettings = LossesSettings()
    """The distillation losses that are summed, each with its weight. Unset: the method's published loss."""
    margin: AnyMarginSettings | None = None
    """How a method that classifies tells classes apart. Unset: the method's published margin."""
    embedding_dim: PositiveInt | None = None
    """Width of the student's embedding. Unset: that of the embedding it imitates."""
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    training: TrainingSettings = TrainingSettings()
    selection: SelectionSettings = SelectionSettings()

    @model_validator(mode="after")
    def _parts_get_on(self) -> Self:
        if refusal := next(self._refusals(), None):
            raise ValueError(refusal)
        return self

    def losses_in_use(self) -> dict[str, LossSettings]:
        """The distillation losses that are summed, by name: the trial's own, or the published ones."""
        if not self.method.transfers:
            return {}
        return self.losses.used() or self.method.published_losses.used()

    def margin_in_use(self) -> AnyMarginSettings | None:
        """The margin that classes are told apart by; None where nothing is classified."""
        return (self.margin or self.method.published_margin) if self.method.classifies else None

    def imitates_in_full(self) -> bool:
        """Whether the student's embedding is as wide as what it imitates, so that both can be compared."""
        return self.student_dim() == self.target_dim()

    def target_dim(self) -> int:
        """Width of the embedding that is imitated. Reads the teacher's card where only that tells.

        Raises:
            TeacherError: If the card cannot be read.
        """
        return self.method.target_dim(self.teacher.embedding_dim)

    def student_dim(self) -> int:
        """Width of the student's embedding."""
        return self.embedding_dim or self.target_dim()

    def equivalents(self) -> dict[str, float]:
        """Weights as the papers write them, by dotted name, for the record.

        A weight kappa of 1 - cos is a weight lambda = kappa D / 2 of the squared error of unit embeddings.
        """
        cosine = self.losses_in_use().get("cosine")
        return {} if cosine is None else {"losses.cosine.lambda": cosine.weight * self.target_dim() / 2}

    def _refusals(self) -> Iterator[str]:
        """What parts have against one another."""
        method, batch_size = self.method, self.training.batch_size
        if method.needs_generator and not self.faces.draws:
            yield f"faces must be drawn by a generator for {_chosen(method)}, got {self.faces.name}"
        if self.margin is not None and not method.classifies:
            yield f"margin must not be set where {_chosen(method)} classifies nothing, got {self.margin.name}"
        if self.losses.named() and not method.transfers:
            named = ", ".join(self.losses.named())
            yield f"losses must not be set where {_chosen(method)} imitates no teacher, got {named}"
        if (refusal := method.refusal(batch_size)) is not None:
            yield f"method.{refusal}"
        used = self.losses_in_use()
        if not method.classifies and not any(loss.reaches_embedding for loss in used.values()):
            yield (
                f"losses must name one that compares embeddings where {_chosen(method)} classifies nothing, "
                f"got {', '.join(used)}"
            )
        for name, loss in used.items():
            if missing := sorted(loss.needs - method.offers):
                yield f"losses.{name} needs {' and '.join(missing)}, which {_chosen(method)} does not offer"
            if loss.same_width and not self.imitates_in_full():
                yield (
                    f"embedding_dim must be {self.target_dim()} for losses.{name}, which needs embeddings as "
                    f"wide as those imitated, got {self.embedding_dim}"
                )
            if batch_size < loss.min_batch_size:
                yield (
                    f"losses.{name} needs training.batch_size to be at least {loss.min_batch_size}, "
                    f"got {batch_size}"
                )


def read_config(path: Path, overrides: Iterable[str] = ()) -> TrialConfig:
    """Reads a trial's config from YAML.

    Args:
        overrides: `a.b=c` each: a field's dotted name and its value, in YAML.

    Raises:
        InputError: If the file cannot be read or a setting is wrong: every one of them, a sentence each.
    """
    try:
        settings: Any = yaml.safe_load(path.read_text()) or {}
        pairs = [text.partition("=") for text in overrides]
        values: dict[str, Any] = {name.strip(): yaml.safe_load(value) for name, _, value in pairs}
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path} must hold a mapping of settings, got {type(settings).__name__}")
    try:
        return TrialConfig.model_validate(override(settings, values))
    except ValidationError as error:
        problems = (
            f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors()
        )
        raise InputError("\n".join(problems)) from None


def _chosen(method: MethodSettings) -> str:
    """A method as a sentence names it."""
    name: str = method.model_dump()["name"]
    return f"method {name} ({method.strategy})" if isinstance(method, LabelledSettings) else f"method {name}"
