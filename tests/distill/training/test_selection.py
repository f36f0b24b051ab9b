"""Model selection never sees the benchmark: trials are ranked on other people."""

import ast
from pathlib import Path

import pytest
from pydantic import ValidationError

import distill
import sweeps
from distill.config import TrialConfig
from distill.faces import EmbeddedFacesSettings, VerificationPairs
from distill.training import train
from tests.distill.training.test_every_method import METHODS, trial

MAY_MEASURE_ON_IT = {
    "distill/models.py": "`distill evaluate`, asked for by a person",
    "distill/teachers/recipe.py": "a teacher's card, after its training",
    "distill/training/loop.py": "a trial that says `selection: benchmark`",
    "sweeps/preflight.py": "whether it can be read, before a sweep",
    "sweeps/compare.py": "`sweeps compare --benchmark`, asked for by a person, who is warned",
    "sweeps/pages/knowledge.py": "the report on a student that was promoted, so was measured on it before",
    "sweeps/promotion/measuring.py": "the one student that was selected",
}


def refuse(self: EmbeddedFacesSettings) -> VerificationPairs:
    raise AssertionError("the benchmark was asked for")


def run(config: TrialConfig, directory: Path) -> list[dict[str, float]]:
    reports: list[dict[str, float]] = []
    train(config, report=lambda metrics, checkpoint: reports.append(metrics), directory=directory)
    return reports


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if name != "bridge_mixed"])
def test_no_method_draws_the_benchmark_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(EmbeddedFacesSettings, "benchmark_pairs", refuse)
    (report,) = run(trial(**METHODS[name]), tmp_path)
    assert not [metric for metric in report if metric.startswith("benchmark/")]


def test_only_what_measures_the_selected_ever_draws_it() -> None:
    callers = set()
    for package in (distill, sweeps):
        root = Path(package.__file__ or "").parent
        for path in root.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr == "benchmark_pairs":
                    callers.add(str(path.relative_to(root.parent)))
    assert callers == set(MAY_MEASURE_ON_IT)


def test_a_metric_of_the_benchmark_is_refused_unless_the_trial_says_so() -> None:
    metric = "benchmark/verification_accuracy"
    with pytest.raises(ValidationError, match="must not be measured on the benchmark"):
        trial(selection={"metric": metric})
    assert trial(selection={"metric": metric, "pairs": "benchmark"}).selection.metric == metric


@pytest.mark.slow
def test_a_trial_that_says_so_is_selected_by_it(tmp_path: Path) -> None:
    chosen = {"metric": "benchmark/verification_accuracy", "pairs": "benchmark"}
    (report,) = run(trial(selection=chosen), tmp_path)
    assert report["benchmark/verification_accuracy"] > 0.4
