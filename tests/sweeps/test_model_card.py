"""The model card says what is known, and nothing else."""

from typing import Any

import pytest

from distill.checkpoint import StudentCard
from distill.config import TrialConfig
from distill.evaluation import Interval
from distill.students import BridgeTinySettings
from sweeps.model_card import Subject, model_card

METRICS = {
    "benchmark/verification_accuracy": 0.9123,
    "benchmark/eer": 0.0876,
    "benchmark/verification_accuracy_north": 0.95,
    "benchmark/shared_threshold_accuracy_north": 0.94,
    "benchmark/verification_accuracy_east": 0.87,
    "benchmark/shared_threshold_accuracy_east": 0.86,
    "efficiency/parameters": 217184.0,
    "export/onnx_min_cosine": 0.99998,
}


def subject(**changes: Any) -> Subject:
    told: dict[str, Any] = {
        "model": "face-student",
        "study": "quickstart",
        "trial": 7,
        "config": TrialConfig.model_validate({"method": {"name": "synthdistill", "resampling_coef": 0.75}}),
        "student": StudentCard(
            student=BridgeTinySettings(),
            embedding_dim=128,
            size_px=32,
            epoch=5,
            metrics={},
            teacher_digest="a" * 64,
            sha256="b" * 64,
        ),
        "metrics": METRICS,
        "teacher_metrics": {name: value + 0.01 for name, value in METRICS.items() if "benchmark" in name},
        "interval": Interval(low=0.9, high=0.92),
        "teacher_interval": Interval(low=0.91, high=0.93),
        "groups": ("north", "east"),
        "gates": ["gate benchmark/eer at most 0.1 passed with 0.0876"],
        "about": {"chosen": "the knee of the front", "why": "smaller at no cost"},
        "teacher_card": {},
        "generator_card": {},
        "training_digest": "c" * 64,
        "benchmark_digest": "d" * 64,
        "files": {"student.onnx": 874304},
    }
    return Subject(**told | changes)


@pytest.mark.parametrize(
    "said",
    [
        "# face-student\n",
        "Trial 7 of study quickstart, epoch 5.",
        "(N, 3, 32, 32)",
        "- `student.onnx`: 874,304 bytes",
        "| student | 0.9123 | 0.9000 to 0.9200 |",
        "| teacher | 0.9223 | 0.9100 to 0.9300 |",
        "| east | 0.8700 | 0.8600 |",
        "| eer | 0.0876 | 0.0976 |",
        "- gate benchmark/eer at most 0.1 passed with 0.0876",
        "| parameters | 217,184 |",
        "| onnx_min_cosine | 0.99998 |",
        "| why | smaller at no cost |",
        f"- digest of its weights and facts: {'a' * 64}",
        "- licence: not stated",
        "| method.resampling_coef | 0.75 |",
        "claim nothing about real faces",
    ],
)
def test_says(said: str) -> None:
    assert said in model_card(subject())


def test_licences_are_those_that_were_stated() -> None:
    assert "- licence: MIT" in model_card(subject(teacher_card={"licence": "MIT"}))
    members = {"members": [{"licence": "MIT"}, {"name": "other"}]}
    assert "- licence: MIT, not stated" in model_card(subject(teacher_card=members))


def test_a_benchmark_without_groups_has_no_table_of_them() -> None:
    whole = {name: value for name, value in METRICS.items() if not name.endswith(("north", "east"))}
    text = model_card(subject(groups=(), metrics=whole, teacher_metrics=whole))
    assert "at the shared threshold" not in text
    assert "None was set." in model_card(subject(gates=[]))


def test_tables_are_tables() -> None:
    rows = [line for line in model_card(subject()).splitlines() if line.startswith("|")]
    assert rows
    assert all(line.endswith("|") for line in rows)
