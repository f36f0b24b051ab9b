"""A candidate for promotion."""

from pathlib import Path

import pytest

from distill.checkpoint import StudentCard
from distill.config import TrialConfig
from distill.evaluation import Interval, verification_metrics
from distill.students import BridgeTinySettings
from distill.teachers import EmbeddedTeacherSettings
from sweeps.leaderboard import TrialRow
from sweeps.promotion import Candidate
from tests.sweeps.promotion.two_students import GOOD, pairs

ACCURACY = "benchmark/verification_accuracy"
PACE = "efficiency/faces_per_second_batch_1"


@pytest.fixture(scope="session")
def candidate() -> Candidate:
    """A student that is told to have done as `GOOD` did."""
    metrics = {
        **verification_metrics(GOOD, pairs(), prefix="benchmark"),
        "benchmark/eer": 0.06,
        PACE: 500.0,
        f"{PACE}_low": 480.0,
        f"{PACE}_high": 510.0,
        "export/onnx_bytes": 900_000.0,
        "export/onnx_min_cosine": 0.99999,
    }
    settings = BridgeTinySettings()
    interval = Interval(low=0.8, high=0.9)
    return Candidate(
        row=TrialRow(number=3, state="complete"),
        chosen="first by validation/verification_accuracy",
        config=TrialConfig.model_validate({"method": {"name": "synthdistill"}}),
        card=StudentCard(
            student=settings,
            embedding_dim=8,
            size_px=16,
            epoch=1,
            metrics={},
            teacher_digest="a" * 64,
            sha256="b" * 64,
        ),
        folder=Path("nowhere"),
        teacher=EmbeddedTeacherSettings().load(),
        benchmark=pairs(),
        similarity_P=GOOD,
        metrics=metrics,
        teacher_metrics={ACCURACY: metrics[ACCURACY] / 0.96, "benchmark/eer": 0.05, "benchmark/auc": 0.0},
        interval=interval,
        teacher_interval=interval,
    )
