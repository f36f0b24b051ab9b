"""What the `distill` command tells of a student."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from distill.checkpoint import save_student
from distill.cli import main
from distill.students import BridgeTinySettings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained student of 16 px."""
    torch.manual_seed(0)
    settings = BridgeTinySettings()
    folder = tmp_path_factory.mktemp("student") / "best"
    save_student(
        settings.build(embedding_dim=32, size_px=16),
        folder,
        student=settings,
        embedding_dim=32,
        size_px=16,
        epoch=1,
        metrics={},
        teacher_digest="0" * 64,
    )
    return folder


def told(*arguments: str) -> dict[str, float]:
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["metrics"]


def test_evaluation_tells_of_fairness_identification_and_speed_where_asked(student: Path) -> None:
    metrics = told(
        "evaluate",
        str(student),
        "--data",
        "embedded-validation",
        "--fairness",
        "--identification",
        "--speed",
    )
    errors = metrics["validation/fairness/shared_threshold/errors/group_a/errors"]
    assert metrics["validation/fairness/shared_threshold/errors/group_a/pairs"] == 800
    assert metrics["validation/shared_threshold_accuracy_group_a"] == pytest.approx(1 - errors / 800)
    interval = [
        metrics[f"validation/fairness/shared_threshold/std/interval/{end}"] for end in ("low", "high")
    ]
    assert interval == sorted(interval)
    assert metrics["validation/fairness/noise_floor/std"] > 0
    assert 0 <= metrics["validation/rank_1"] <= metrics["validation/rank_5"] <= 1
    assert metrics["efficiency/faces_per_second_batch_128"] > 0


def test_evaluation_tells_no_more_than_it_is_asked(student: Path) -> None:
    metrics = told("evaluate", str(student), "--data", "embedded-validation")
    assert "validation/verification_accuracy" in metrics
    assert not [name for name in metrics if "interval" in name or "rank" in name or "per_second" in name]


def test_privacy_compares_synthetic_classes_with_the_people_behind_them(student: Path) -> None:
    metrics = told("privacy", str(student), "--classes", "40", "--images", "4")
    for comparison in ("authentic", "synthetic", "cross"):
        assert 0 <= metrics[f"privacy/{comparison}/eer"] <= 1
    assert 0 <= metrics["privacy/nearest/hit_rate"] <= 1


def test_a_folder_without_a_student_is_the_users_mistake(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["privacy", str(tmp_path)])
    assert done.exit_code == 2
    assert "is not a student's folder" in done.stderr
