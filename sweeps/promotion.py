"""From a sweep's best student to the model that production loads.

Trials were ranked on validation identities. The benchmark is measured here, on the one student that was
selected and on its teacher: looking further down the ranking for one that passes would be selecting on
the benchmark.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
import numpy as np
import optuna
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

import distill
from distill.checkpoint import BEST, StudentCard, load_student
from distill.config import TrialConfig
from distill.errors import InputError, RefusedError
from distill.evaluation import (
    Interval,
    accuracy_interval,
    embed_pairs,
    pair_metrics,
    pair_similarity,
    static_efficiency,
)
from distill.export import FILES, export
from distill.faces import StyleGAN2FacesSettings, VerificationPairs
from distill.faces.stylegan2 import read_card as read_generator_card
from distill.teachers import Teacher
from sweeps.home import Home
from sweeps.leaderboard import TrialRow, rank
from sweeps.model_card import Subject, model_card
from sweeps.space import Bound, SearchSpace
from sweeps.study import load_study, read_space, trial_rows

SERVING_REQUIREMENTS = ("torch", "numpy", "pydantic", "safetensors", "pillow")
MODEL_CARD = "MODEL_CARD.md"
MAX_DESCRIPTION = 5_000  # characters that MLflow's databases keep of a version's description
COMPARED_FACES = 256


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one gate said of a candidate."""

    gate: Bound
    value: float

    @property
    def passed(self) -> bool:
        """Whether the candidate may go through."""
        return self.gate.violation(self.value) <= 0

    def __str__(self) -> str:
        return f"gate {self.gate} {'passed' if self.passed else 'failed'} with {self.value:.4g}"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The student that was selected, and what the benchmark says of it and of its teacher."""

    row: TrialRow
    config: TrialConfig
    card: StudentCard
    folder: Path
    teacher: Teacher
    benchmark: VerificationPairs
    metrics: Mapping[str, float]
    teacher_metrics: Mapping[str, float]
    interval: Interval
    teacher_interval: Interval


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A student that went through its gates."""

    candidate: Candidate
    verdicts: tuple[Verdict, ...]
    model: str
    version: str
    alias: str

    @property
    def uri(self) -> str:
        """What production loads."""
        return f"models:/{self.model}@{self.alias}"

    def document(self) -> dict[str, Any]:
        """As plain types, for `--json`."""
        return {
            "model": self.model,
            "version": self.version,
            "alias": self.alias,
            "uri": self.uri,
            "trial": self.candidate.row.number,
            "metrics": dict(self.candidate.metrics),
            "teacher_metrics": dict(self.candidate.teacher_metrics),
            "gates": [
                {"gate": str(verdict.gate), "value": verdict.value, "passed": verdict.passed}
                for verdict in self.verdicts
            ],
        }


def judge(gates: tuple[Bound, ...], metrics: Mapping[str, float]) -> tuple[Verdict, ...]:
    """What every gate says of a student with these metrics.

    Raises:
        InputError: If a gate asks for a metric that is not measured.
    """
    for gate in gates:
        if gate.metric not in metrics:
            raise InputError(
                f"gate on {gate.metric!r}: it is not measured; there are {', '.join(sorted(metrics))}"
            )
    return tuple(Verdict(gate=gate, value=metrics[gate.metric]) for gate in gates)


def select(study: optuna.Study, space: SearchSpace, *, trial: int | None) -> TrialRow:
    """The trial that is proposed: the one asked for, else the first of the leaderboard.

    Raises:
        InputError: If there is no such trial, or it has no student to hand over.
        RefusedError: If no trial is complete and feasible.
    """
    rows = trial_rows(study, space)
    if trial is None:
        ranked = [row for row in rank(rows, space.objectives, space.constraints) if row.state == "complete"]
        if not ranked:
            raise RefusedError(f"study {study.study_name} has no complete trial to promote")
        return ranked[0]
    found = next((row for row in rows if row.number == trial), None)
    if found is None:
        raise InputError(f"study {study.study_name} has no trial {trial}: it has 0 to {len(rows) - 1}")
    if found.state not in ("complete", "pruned"):
        raise InputError(
            f"trial {trial} is {found.state}: only a complete or pruned one has a student to promote"
        )
    return found


def measure(home: Home, name: str, space: SearchSpace, row: TrialRow, config: TrialConfig) -> Candidate:
    """Loads the selected student and measures it, and its teacher, on the benchmark."""
    folder = home.study(name).trial(row.number) / BEST
    student, card = load_student(folder)
    teacher = config.teacher.load()
    benchmark = config.faces.benchmark_pairs()
    (metrics, interval), (teacher_metrics, teacher_interval) = (
        _on_benchmark(network, benchmark) for network in (student, teacher)
    )
    return Candidate(
        row=row,
        config=config,
        card=card,
        folder=folder,
        teacher=teacher,
        benchmark=benchmark,
        metrics={**card.metrics, **metrics, **static_efficiency(student, size_px=card.size_px)},
        teacher_metrics=teacher_metrics,
        interval=interval,
        teacher_interval=teacher_interval,
    )


def _on_benchmark(network: nn.Module, benchmark: VerificationPairs) -> tuple[dict[str, float], Interval]:
    """Every metric of the benchmark, and the interval of the accuracy."""
    similarity_P = pair_similarity(embed_pairs(network, benchmark), benchmark)
    metrics = pair_metrics(similarity_P, benchmark, prefix="benchmark")
    return metrics, accuracy_interval(similarity_P, benchmark)


def promote(home: Home, name: str, *, trial: int | None = None, alias: str | None = None) -> Promotion:
    """Registers a study's best student under an alias, if it passes every gate of its space.

    Raises:
        InputError: If the study, the trial or a gate's metric does not exist.
        RefusedError: If a gate refuses. Nothing was registered.
    """
    space = read_space(home, name)
    if space.promotion is None:
        raise InputError(
            f"study {name} says nothing of promotion: add `promotion: {{model: ...}}` to its space"
        )
    study = load_study(home, name)
    row = select(study, space, trial=trial)
    config = space.config(row.params)
    candidate = measure(home, name, space, row, config)
    verdicts = judge(space.promotion.gates, candidate.metrics)
    if failed := [str(verdict) for verdict in verdicts if not verdict.passed]:
        raise RefusedError(f"trial {row.number} of {name} is not promoted: {'; '.join(failed)}")
    alias = alias or space.promotion.alias
    registered = _register(home, name, candidate, verdicts, model=space.promotion.model, alias=alias)
    return Promotion(
        candidate=candidate, verdicts=verdicts, model=space.promotion.model, version=registered, alias=alias
    )


def _register(
    home: Home, name: str, candidate: Candidate, verdicts: tuple[Verdict, ...], *, model: str, alias: str
) -> str:
    """Logs the student as a model, registers it, and moves the alias last, once the version is whole."""
    mlflow.set_tracking_uri(home.tracking_uri)
    client = MlflowClient(tracking_uri=home.tracking_uri)
    run_id = candidate.row.run_id
    if run_id is None:
        raise InputError(f"trial {candidate.row.number} of {name} has no MLflow run to register a model from")
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run = client.get_run(run_id).info
    logged, card = _log_model(run_id, candidate, _subject(name, candidate, verdicts, model=model))
    # Logging re-opened the run: leave it as it ended.
    client.set_terminated(run_id, status=run.status, end_time=run.end_time)
    created = client.create_model_version(
        model,
        source=logged.model_uri,
        run_id=run_id,
        model_id=logged.model_id,
        tags={
            "study": name,
            "trial": str(candidate.row.number),
            "teacher_digest": candidate.card.teacher_digest,
            "sha256": candidate.card.sha256,
            **{f"gate.{verdict.gate.metric}": str(verdict) for verdict in verdicts},
            **{
                key: f"{value:.6g}"
                for key, value in candidate.metrics.items()
                if key.startswith("benchmark/")
            },
        },
    )
    client.update_model_version(model, created.version, description=card[:MAX_DESCRIPTION])
    _log_benchmark(client, run_id, candidate)
    client.set_registered_model_alias(model, alias, created.version)
    return created.version


def _subject(
    name: str, candidate: Candidate, verdicts: tuple[Verdict, ...], *, model: str
) -> Callable[[Path], Subject]:
    """What the model card is about, once the files of the model are in their folder."""
    config = candidate.config
    generator_card: dict[str, Any] = {}
    if isinstance(config.faces, StyleGAN2FacesSettings):
        generator_card = read_generator_card(config.faces.weights).model_dump(mode="json")

    def of(folder: Path) -> Subject:
        return Subject(
            model=model,
            study=name,
            trial=candidate.row.number,
            config=config,
            student=candidate.card,
            metrics=candidate.metrics,
            teacher_metrics=candidate.teacher_metrics,
            interval=candidate.interval,
            teacher_interval=candidate.teacher_interval,
            groups=candidate.benchmark.group_names,
            gates=[str(verdict) for verdict in verdicts],
            teacher_card=candidate.teacher.card,
            generator_card=generator_card,
            training_digest=config.faces.training_digest(),
            benchmark_digest=candidate.benchmark.digest,
            files={path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        )

    return of


def _log_model(run_id: str, candidate: Candidate, subject: Callable[[Path], Subject]) -> tuple[Any, str]:
    """Logs the student as a pyfunc model that `distill.serving` loads, and checks what it says.

    Beside the student lie the same as ONNX, for phones, and the model card, which is returned too.
    """
    card = candidate.card
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 3, card.size_px, card.size_px))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, card.embedding_dim))]),
    )
    student, _ = load_student(candidate.folder)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "student"
        shutil.copytree(candidate.folder, folder)
        compared = candidate.benchmark.images_NCHW[:COMPARED_FACES]
        export(student, card, folder / FILES["onnx"], format="onnx", faces=compared)
        text = model_card(subject(folder))
        (folder / MODEL_CARD).write_text(text, encoding="utf-8")
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name="student",
                loader_module="distill.serving",
                data_path=str(folder),
                code_paths=[str(Path(distill.__file__).parent)],
                signature=signature,
                pip_requirements=_pinned(SERVING_REQUIREMENTS),
            )
    served = mlflow.pyfunc.load_model(logged.model_uri)
    faces = torch.rand(4, 3, card.size_px, card.size_px, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected = student(faces).numpy()
    if not np.allclose(served.predict(faces.numpy()), expected, atol=1e-5):
        raise RefusedError("the logged model does not give the student's embeddings: it is not registered")
    return logged, text


def _log_benchmark(client: MlflowClient, run_id: str, candidate: Candidate) -> None:
    for name, value in candidate.metrics.items():
        if name.startswith("benchmark/"):
            client.log_metric(run_id, name, value)


def _pinned(names: tuple[str, ...]) -> list[str]:
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]
