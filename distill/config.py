"""What one trial is, in one frozen object: every knob that a search space may turn has a field here."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from distill.errors import InputError
from distill.faces import AnyFacesSettings, EmbeddedFacesSettings
from distill.losses import LossesSettings
from distill.methods import AnyMethodSettings, SynthDistillSettings
from distill.settings import Settings, override
from distill.students import AnyStudentSettings, BridgeTinySettings
from distill.teachers import AnyTeacherSettings, EmbeddedTeacherSettings


class OptimizerSettings(Settings):
    """Adam, as SynthDistill uses it."""

    lr: PositiveFloat = 1e-3
    """Learning rate of the first step; the schedule lowers it from there."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay. 0 in SynthDistill."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's moments, each in [0, 1)."""

    @model_validator(mode="after")
    def _betas_are_rates(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must each lie in [0, 1), got {self.betas}")
        return self


class ScheduleSettings(Settings):
    """How the learning rate falls over the epochs."""

    name: Literal["constant", "step", "cosine"] = "cosine"
    """cosine: to `final_share` over all epochs, step by step. step: by `gamma` every `step_epochs`."""
    step_epochs: PositiveInt = 10
    """Epochs between two drops of `step`; 10 in SynthDistill."""
    gamma: float = Field(default=0.5, gt=0.0, le=1.0)
    """What a drop of `step` multiplies the rate with; 0.5 in SynthDistill."""
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

    @model_validator(mode="after")
    def _an_epoch_holds_a_step(self) -> Self:
        if self.faces_per_epoch < self.batch_size:
            raise ValueError(
                f"faces_per_epoch must be at least batch_size ({self.batch_size}), got {self.faces_per_epoch}"
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

    @model_validator(mode="after")
    def _never_on_the_benchmark(self) -> Self:
        if self.metric.startswith("benchmark/"):
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
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    training: TrainingSettings = TrainingSettings()
    selection: SelectionSettings = SelectionSettings()


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
