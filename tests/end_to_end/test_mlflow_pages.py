"""MLflow's own pages over what a sweep records, looked at in a browser.

Pictures of them are kept in docs/images, and made again by

    MLFLOW_PICTURES=docs/images pytest tests/end_to_end/test_mlflow_pages.py
"""

import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from sweeps.home import Home
from sweeps.mlflow_pages import run_name, trials_page
from sweeps.provenance import Provenance
from sweeps.tracking import DatasetRecord, Tracker
from tests.end_to_end.mlflow_server import MlflowServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

# MLflow opens its assistant, over a quarter of the page, for who is new.
NOT_NEW = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"

STUDY, EPOCHS = "phone-student", 6
SPACE = """
name: phone-student
description: "SynthDistill on the embedded world: which small student, and how far to re-sample?"
objectives:
  - {metric: validation/verification_accuracy, direction: maximize}
parameters:
  student.width: {type: float, low: 0.25, high: 1.0}
  optimizer.lr: {type: float, low: 0.001, high: 0.01, log: true}
  method.resampling_coef: {type: float, low: 0.25, high: 2.0, log: true}
search: {sampler: tpe, num_trials: 6, seed: 0}
"""
TRIALS = [  # student, width, learning rate, re-sampling, what it reaches, state
    ("mobilefacenet", 0.50, 0.0031, 0.90, 0.942, "complete"),
    ("bridge_tiny", 0.25, 0.0020, 0.40, 0.871, "complete"),
    ("mobilefacenet", 0.75, 0.0045, 1.30, 0.958, "complete"),
    ("iresnet_small", 1.00, 0.0095, 1.90, 0.802, "pruned"),
    ("bridge_tiny", 0.40, 0.0060, 0.70, 0.905, "complete"),
    ("mobilefacenet", 0.60, 0.0012, 0.30, 0.931, "complete"),
]
LEADERBOARD = """
Trial 2 won with a verification accuracy of **0.958**; the teacher reaches 0.981.

| rank | trial | student | accuracy | parameters |
|---:|---:|---|---:|---:|
| 1 | 2 | mobilefacenet | 0.958 | 690,000 |
| 2 | 0 | mobilefacenet | 0.942 | 410,000 |
| 3 | 5 | mobilefacenet | 0.931 | 520,000 |

![Accuracy by epoch](artifact:report/curves.png)
"""


def record_sweep(home: Home, pictures: Path) -> dict[int, str]:
    """Records a sweep of six trials as a driver would, with made-up numbers.

    Returns:
        The runs of its trials.
    """
    runs: dict[int, str] = {}
    tracker = Tracker(home, study=STUDY, on_run=runs.__setitem__)
    tracker.start_sweep(
        space_yaml=SPACE,
        params={"search.sampler": "tpe", "search.num_trials": 6, "search.seed": 0},
        provenance=Provenance.of_this_process(),
    )
    for number, (student, width, lr, coef, reached, state) in enumerate(TRIALS):
        searched = {"student.width": width, "optimizer.lr": lr, "method.resampling_coef": coef}
        config = {"student.name": student, "method.name": "synthdistill", "seed": 0, **searched}
        tracker.start_trial(
            number,
            name=run_name(number, student=student, method="synthdistill", params=searched),
            params=config,
            tags={"method": "synthdistill", "student": student, "seed": "0"},
            datasets=lambda: [
                DatasetRecord(
                    name=f"embedded-{context}",
                    digest=digest * 32,
                    context=context,
                    source='{"name": "embedded", "size_px": 32}',
                    is_drawn=True,
                )
                for context, digest in (("training", "3f"), ("validation", "a7"))
            ],
            digests=lambda: {"teacher_digest": "b4" * 32, "generator_digest": "3f" * 32},
            config_json=json.dumps(config, indent=2),
        )
        metrics: dict[str, float] = {}
        for epoch in range(1, (EPOCHS if state == "complete" else 2) + 1):
            share = 1 - math.exp(-epoch / 1.7)
            metrics = {
                "train/loss": 2.0 - 1.6 * share,
                "train/faces_per_second": 410.0 + 3 * number,
                "validation/verification_accuracy": 0.5 + (reached - 0.5) * share,
                "validation/equal_error_rate": 0.5 - (reached - 0.5) * share,
                "validation/teacher_similarity": 0.9 * share,
            }
            tracker.log_epoch(number, epoch=epoch, metrics=metrics)
        best = metrics | {"efficiency/parameters": 920_000 * width, "efficiency/macs": 31e6 * width}
        reason = "stopped early after epoch 2" if state == "pruned" else None
        if number == 2:
            tracker.tag_trial(number, pareto="true", note="The **champion** of this sweep.")
        tracker.finish_trial(number, state=state, reason=reason, best=best)
    draw_curves(pictures / "curves.png")
    tracker.log_sweep_files(pictures, "report")
    tracker.describe_sweep(LEADERBOARD)
    tracker.finish_sweep(
        status="FINISHED",
        metrics={"best/validation/verification_accuracy": 0.958, "trials/complete": 5.0},
        leaderboard={"leaderboard.csv": "rank,trial\n1,2\n", "leaderboard.md": LEADERBOARD},
    )
    assert tracker.close()
    return runs


def draw_curves(path: Path) -> None:
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(6, 3), layout="constrained")).subplots()
    for number, (*_, reached, state) in enumerate(TRIALS):
        epochs = range(1, (EPOCHS if state == "complete" else 2) + 1)
        heights = [0.5 + (reached - 0.5) * (1 - math.exp(-epoch / 1.7)) for epoch in epochs]
        axes.plot(epochs, heights, label=f"trial {number}")
    axes.set(xlabel="epoch", ylabel="verification accuracy")
    axes.legend(ncols=2, fontsize="small")
    figure.savefig(path, dpi=100)


def register(uri: str, run_id: str, student: Path) -> None:
    """Registers a model of a run under the alias that production loads."""
    mlflow.set_tracking_uri(uri)
    spec = Schema([TensorSpec(np.dtype(np.float32), (-1, 3, 32, 32))])
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings(action="ignore"):  # it has no example
        logged = mlflow.pyfunc.log_model(
            name="student",
            loader_module="distill.serving",
            data_path=str(student),
            signature=ModelSignature(inputs=spec, outputs=spec),
            pip_requirements=["numpy"],
        )
    client = MlflowClient(tracking_uri=uri)
    client.create_registered_model("phone-student")
    version = client.create_model_version(
        "phone-student",
        source=logged.model_uri,
        run_id=run_id,
        model_id=logged.model_id,
        tags={"study": STUDY, "trial": "2"},
        description="Trial 2 of phone-student: 0.958 on validation.",
    )
    client.set_registered_model_alias("phone-student", "champion", version.version)


@dataclass
class Pages:
    """A browser on a server that holds the sweep."""

    page: "Page"
    uri: str
    experiment: str
    parent: str
    runs: dict[int, str]
    pictures: Path

    def open(self, path: str, *, expect: str) -> str:
        """Goes to a page and returns its text once it shows what is expected."""
        self.page.goto("about:blank")
        query = "&" if "?" in path else "?"
        self.page.goto(f"{self.uri}/{path}{query}workflowType=machine_learning")
        self.page.get_by_text(expect).first.wait_for()
        return self.text()

    def text(self) -> str:
        return self.page.inner_text("body")

    def keep(self, name: str) -> None:
        """Takes a picture of what is shown."""
        self.page.wait_for_timeout(2_000)  # charts move into place
        self.page.screenshot(path=self.pictures / f"mlflow_{name}.png")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    root = tmp_path_factory.mktemp("pages")
    server = MlflowServer(root / "server").start()
    try:
        home = Home.at(str(root / "home"), server.uri)
        (drawn := root / "report").mkdir()
        runs = record_sweep(home, drawn)
        register(server.uri, runs[2], drawn)
        client = MlflowClient(tracking_uri=server.uri)
        experiment = client.get_run(runs[0]).info.experiment_id
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1600, "height": 900})
            page.add_init_script(NOT_NEW)
            page.set_default_timeout(120_000)
            yield Pages(
                page=page,
                uri=server.uri,
                experiment=experiment,
                parent=client.get_run(runs[0]).data.tags["mlflow.parentRunId"],
                runs=runs,
                pictures=Path(os.environ.get("MLFLOW_PICTURES", root)).absolute(),
            )
            browser.close()
    finally:
        server.kill()


def test_the_table_of_runs_is_a_leaderboard_with_what_tells_trials_apart(pages: Pages) -> None:
    pages.open(trials_page(pages.experiment), expect="002 mobilefacenet")
    pages.keep("runs")
    parameters = ["student.width", "optimizer.lr", "method.resampling_coef"]
    metric = "best/validation/verification_accuracy"
    columns = ["Run Name", "Created", metric, *parameters, "state", "Models"]
    assert laid_out(pages, ".ag-header-cell", along="x")[: len(columns)] == columns
    names = laid_out(pages, ".ag-row [col-id='attributes.`Run Name`'] a", along="y")
    assert [int(name[:3]) for name in names if name != STUDY] == [2, 0, 5, 4, 1, 3]


def laid_out(pages: Pages, selector: str, *, along: str) -> list[str]:
    """The texts of cells of the table, in the order in which they are seen."""
    return pages.page.locator(selector).evaluate_all(
        """(cells, along) => cells
            .sort((a, b) => a.getBoundingClientRect()[along] - b.getBoundingClientRect()[along])
            .map(cell => cell.innerText.trim()).filter(text => text)""",
        along,
    )


def test_the_sweeps_page_shows_its_leaderboard_and_picture(pages: Pages) -> None:
    text = pages.open(f"#/experiments/{pages.experiment}/runs/{pages.parent}", expect="Trial 2 won")
    pages.page.get_by_text("Show more").first.click()
    picture = pages.page.locator("img[src*='report/curves.png']")
    pages.keep("run")
    assert "690,000" in text
    assert picture.evaluate("async image => { await image.decode(); return image.naturalWidth; }") == 600
    for number in pages.runs:
        assert f"{number:03d} {TRIALS[number][0]}" in text  # its children


def test_a_trials_page_shows_its_faces_its_tags_and_its_model(pages: Pages) -> None:
    text = pages.open(f"#/experiments/{pages.experiment}/runs/{pages.runs[2]}", expect="embedded-training")
    assert "The champion of this sweep." in text
    assert "phone-student" in text[text.index("Registered models") :]
    for tag in ("study", "method", "student", "state", "seed", "pareto", "teacher_digest"):
        assert f"{tag}\n" in text


def test_six_trials_are_compared_by_their_parameters_and_the_objective(pages: Pages) -> None:
    runs, experiments = json.dumps(list(pages.runs.values())), json.dumps([pages.experiment])
    pages.open(f"#/compare-runs?runs={runs}&experiments={experiments}", expect="Parallel Coordinates Plot")
    titles = pages.page.locator(".js-plotly-plot .parcoords .axis-title")
    titles.first.wait_for()
    pages.keep("compare")
    shown = [title.text_content() for title in titles.all()]
    assert shown == [
        "method.resampling_coef",
        "optimizer.lr",
        "student.name",
        "validation/verification_accuracy",
    ]


def test_the_models_page_shows_the_champion_and_where_it_comes_from(pages: Pages) -> None:
    text = pages.open("#/models/phone-student", expect="champion")
    pages.keep("model")
    assert "@\N{NO-BREAK SPACE}champion" in text
    assert "Trial 2 of phone-student" in text
