"""The whole story on a real MLflow server, seen through its pages: from two sweeps to production and back.

Somebody sweeps twice, compares the studies, reads the report, and promotes; a worse student is refused, a
better one takes over and is taken back, and production loads the champion. After each step the server is
asked what is true.

Pictures of MLflow's pages are kept in docs/images, and made again by

    MLFLOW_PICTURES=docs/images pytest tests/end_to_end/test_story.py
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from torch import Tensor

from distill.checkpoint import BEST, load_student
from distill.faces import EmbeddedFacesSettings, VerificationPairs
from sweeps.mlflow_pages import trials_page
from tests.end_to_end.browser import chromium
from tests.end_to_end.machine import BIN, Machine, RayHead
from tests.end_to_end.mlflow_server import MlflowServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SPACE = Path(__file__).parent / "spaces" / "phone.yaml"
FIRST, SECOND, MODEL = "first-try", "phone-student", "phone-student"
ACCURACY, SIZE = "validation/verification_accuracy", "efficiency/parameters"
BENCHMARK = "benchmark/verification_accuracy"
PARAMETERS = ["student.name", "student.width", "optimizer.lr", "method.resampling_coef"]
SIZE_PX = 16

# MLflow opens its assistant, over a quarter of the page, for who is new.
NOT_NEW = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"


@dataclass(frozen=True)
class Desk:
    """Where somebody works who has swept twice: a shell, a browser, and a server that both lead to.

    Attributes:
        swept: What `sweeps run --json` said of each study.
    """

    machine: Machine
    server: MlflowServer
    client: MlflowClient
    swept: dict[str, dict[str, Any]]
    browser: "Browser"
    page: "Page"
    pictures: Path

    # ---- the shell

    def sweeps(self, *arguments: str) -> Any:
        """What `sweeps` says as JSON."""
        return json.loads(done(self.machine.run(*arguments, "--json")))

    def trials(self, study: str) -> list[dict[str, Any]]:
        """Best first."""
        return self.swept[study]["trials"]

    # ---- the server

    def runs(self, study: str) -> list[Run]:
        """The sweep's run, and those of its trials in their order."""
        experiment = self.client.get_experiment_by_name(study)
        assert experiment is not None
        found = self.client.search_runs([experiment.experiment_id])
        return sorted(found, key=lambda run: int(run.data.tags.get("trial", -1)))

    @property
    def aliases(self) -> dict[str, str]:
        """Versions of the model by alias."""
        found = self.client.get_registered_model(MODEL).aliases
        return {alias: str(version) for alias, version in found.items()}

    def registry(self) -> list[Any]:
        """All that a refusal must not change: versions, aliases, and the runs that they could come from."""
        versions = sorted(self.client.search_model_versions(f"name='{MODEL}'"), key=lambda v: v.version)
        runs = [run for study in (FIRST, SECOND) for run in self.runs(study)]
        experiments = list({run.info.experiment_id for run in runs})
        return [
            self.aliases,
            [dict(version) for version in versions],
            [run.to_dictionary() for run in runs],
            sorted(model.model_id for model in self.client.search_logged_models(experiments)),
        ]

    # ---- the browser

    def open(self, path: str, *, expect: str) -> str:
        """Goes to a page of MLflow's and returns its text once it shows what is expected."""
        self.page.goto("about:blank")
        query = "&" if "?" in path else "?"
        self.page.goto(f"{self.server.uri}/{path}{query}workflowType=machine_learning")
        self.page.get_by_text(expect).first.wait_for()
        return self.page.inner_text("body")

    def keep(self, name: str) -> None:
        """Takes a picture of what is shown."""
        self.page.wait_for_timeout(2_000)  # charts move into place
        self.page.screenshot(path=self.pictures / f"mlflow_{name}.png")


def done(process: subprocess.CompletedProcess[str]) -> str:
    """What a command that succeeds prints."""
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def distill(*arguments: str) -> str:
    return done(
        subprocess.run([str(BIN / "distill"), *arguments], capture_output=True, text=True, timeout=300)
    )


@pytest.fixture(scope="module")
def desk(ray_head: RayHead, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    root = tmp_path_factory.mktemp("story")
    machine = Machine(home=root / "home", ray=ray_head)
    with chromium() as browser:
        server = MlflowServer(root / "server")
        try:
            os.environ["MLFLOW_TRACKING_URI"] = server.start().uri
            short = ("--trials", "1", "--set", "training.epochs=2", "--set", "training.faces_per_epoch=256")
            swept = {
                FIRST: done(machine.run("run", str(SPACE), "--json", "--name", FIRST, *short)),
                SECOND: done(machine.run("run", str(SPACE), "--json")),
            }
            page = browser.new_page(viewport={"width": 1840, "height": 900})
            page.add_init_script(NOT_NEW)
            page.set_default_timeout(120_000)
            yield Desk(
                machine=machine,
                server=server,
                client=MlflowClient(tracking_uri=server.uri),
                swept={study: json.loads(document) for study, document in swept.items()},
                browser=browser,
                page=page,
                pictures=Path(os.environ.get("MLFLOW_PICTURES", root)).absolute(),
            )
        finally:
            server.kill()


# ---- compare -----------------------------------------------------------------------------------------------


def test_the_server_holds_both_sweeps_trial_by_trial(desk: Desk) -> None:
    for study in (FIRST, SECOND):
        parent, *children = desk.runs(study)
        assert parent.info.status == "FINISHED"
        for child, trial in zip(children, sorted(desk.trials(study), key=lambda t: t["trial"]), strict=True):
            assert child.info.run_id == trial["run_id"]
            assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert child.data.tags["state"] == trial["state"]
            assert child.data.metrics[f"best/{ACCURACY}"] == trial["metrics"][ACCURACY]


def test_compared_the_better_study_is_really_better(desk: Desk) -> None:
    compared = desk.sweeps("compare", FIRST, SECOND)
    best = [desk.trials(study)[0] for study in (FIRST, SECOND)]
    names = [f"{study}:{trial['trial']}" for study, trial in zip((FIRST, SECOND), best, strict=True)]
    first, second = compared["subjects"]
    assert [first["name"], second["name"]] == names
    before, after = (trial["metrics"][ACCURACY] for trial in best)
    difference = second["differences"]["verification_accuracy"]
    assert difference["value"] == pytest.approx(after - before)
    assert 0 < difference["low"] <= difference["value"] <= difference["high"]
    assert difference["verdict"] == "really better"
    assert compared["settings"]["training.epochs"] == dict(zip(names, [2, 3], strict=True))
    assert [sum(study["states"].values()) for study in compared["studies"]] == [1, 6]


def test_the_table_of_runs_is_a_leaderboard_with_what_tells_trials_apart(desk: Desk) -> None:
    parent, *_ = desk.runs(SECOND)
    desk.open(trials_page(parent.info.experiment_id), expect="002 ")
    desk.keep("runs")
    columns = ["Run Name", "Created", f"best/{ACCURACY}", f"best/{SIZE}", *PARAMETERS, "state", "Models"]
    assert laid_out(desk.page, ".ag-header-cell", along="x")[: len(columns)] == columns
    names = laid_out(desk.page, ".ag-row [col-id='attributes.`Run Name`'] a", along="y")
    ranked = sorted(desk.trials(SECOND), key=lambda trial: -trial["metrics"][ACCURACY])
    expected = [f"{t['trial']:03d} {t['parameters']['student.name']} synthdistill" for t in ranked]
    assert [" ".join(name.split()[:3]) for name in names if name != SECOND] == expected


def laid_out(page: "Page", selector: str, *, along: str) -> list[str]:
    """The texts of cells of a table, in the order in which they are seen."""
    return page.locator(selector).evaluate_all(
        """(cells, along) => cells
            .sort((a, b) => a.getBoundingClientRect()[along] - b.getBoundingClientRect()[along])
            .map(cell => cell.innerText.trim()).filter(text => text)""",
        along,
    )


def test_six_trials_are_compared_by_their_parameters_and_the_objective(desk: Desk) -> None:
    parent, *children = desk.runs(SECOND)
    runs = json.dumps([child.info.run_id for child in children])
    experiments = json.dumps([parent.info.experiment_id])
    desk.open(f"#/compare-runs?runs={runs}&experiments={experiments}", expect="Parallel Coordinates Plot")
    titles = desk.page.locator(".js-plotly-plot .parcoords .axis-title")
    titles.first.wait_for()
    desk.keep("compare")
    shown = [title.text_content() for title in titles.all()]
    assert shown == ["method.resampling_coef", "optimizer.lr", "student.name", ACCURACY]


# ---- explain -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the report of the second sweep was written."""
    folder = tmp_path_factory.mktemp("report")
    done(desk.machine.run("report", SECOND, "--out", str(folder)))
    return folder


def test_the_report_opens_on_a_phone_and_lies_on_the_server(desk: Desk, report: Path) -> None:
    asked: list[str] = []
    page = desk.browser.new_page(viewport={"width": 390, "height": 844})
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto((report / "report.html").as_uri())
    best = desk.trials(SECOND)[0]
    assert f"Trial {best['trial']}, a {best['parameters']['student.name']}, leads" in page.inner_text(
        ".summary"
    )
    numbers = page.locator("#leaderboard tbody td:nth-child(2)").all_inner_texts()
    assert numbers == ["", *(str(trial["trial"]) for trial in desk.trials(SECOND))]  # the teacher has none
    images = page.locator("img")
    assert images.count() > 8
    assert all(width > 900 for width in images.evaluate_all("all => all.map(i => i.naturalWidth)"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    parent, *_ = desk.runs(SECOND)
    logged = {Path(item.path).name for item in desk.client.list_artifacts(parent.info.run_id, "report")}
    assert logged == {path.name for path in report.iterdir()}


@pytest.mark.usefixtures("report")
def test_the_sweeps_page_shows_its_leaderboard_its_trials_and_pictures(desk: Desk) -> None:
    parent, *children = desk.runs(SECOND)
    desk.open(f"#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}", expect="rank")
    desk.page.get_by_text("Show more").first.click()
    for child in children:
        desk.page.get_by_text(str(child.info.run_name)).wait_for()
    names = ("report_history.png", "report_learning_curves.png", "report_pareto_1.png")
    images = [desk.page.locator(f"img[src*='report/{name}']") for name in names]
    desk.keep("run")
    table = desk.page.locator("table", has_text="rank").first.locator("tbody tr").all_inner_texts()
    cells = [row.split("\t") for row in table]
    assert cells[0][2] == "teacher"
    assert [(int(row[1]), row[2], row[3]) for row in cells[1:]] == [
        (trial["trial"], trial["state"], f"{trial['metrics'][ACCURACY]:.4f}") for trial in desk.trials(SECOND)
    ]
    for image in images:
        assert image.evaluate("async image => { await image.decode(); return image.naturalWidth; }") > 900


# ---- promote -----------------------------------------------------------------------------------------------


def test_a_student_reaches_production_and_the_one_before_comes_back(desk: Desk, tmp_path: Path) -> None:
    tried, best = desk.trials(FIRST)[0], desk.trials(SECOND)[0]
    worst = min(desk.trials(SECOND), key=lambda trial: trial["metrics"][ACCURACY])

    assert desk.sweeps("promote", FIRST, "--why", "good enough to begin with")["version"] == "1"
    assert desk.aliases == {"champion": "1"}
    assert_comes_from(desk, "1", FIRST, tried)

    before = desk.registry()
    refused = desk.machine.run("promote", SECOND, "--trial", str(worst["trial"]))
    assert refused.returncode == 3, refused.stdout + refused.stderr
    assert f"gate {BENCHMARK} better than the champion's by 0.002 failed with -0." in refused.stderr
    assert "against version 1" in refused.stderr
    assert desk.registry() == before

    promoted = desk.sweeps("promote", SECOND)
    assert (promoted["version"], promoted["trial"]) == ("2", best["trial"])
    assert desk.aliases == {"champion": "2", "previous": "1"}
    assert_comes_from(desk, "2", SECOND, best)
    assert_pages_show_the_champion(desk, best)

    said = done(desk.machine.run("rollback", MODEL, "--why", "blurred faces"))
    assert said == f"models:/{MODEL}@champion is version 1 again, it was version 2\n"
    assert desk.aliases == {"champion": "1", "previous": "2"}
    assert desk.client.get_model_version(MODEL, "2").tags["rolled_back"].endswith("blurred faces")

    assert_python_loads(desk, tried, other=best)
    assert_shell_embeds_and_verifies(tried, tmp_path)


def assert_comes_from(desk: Desk, version: str, study: str, trial: dict[str, Any]) -> None:
    """Whether the server says so of a version, and that it went through its gates."""
    found = desk.client.get_model_version(MODEL, version)
    assert (found.run_id, found.tags["study"]) == (trial["run_id"], study)
    assert found.tags["chosen"] == f"the best {ACCURACY} within {SIZE} at most 500,000"
    assert [gate["passed"] for gate in json.loads(found.tags["gates"])] == [True, True]
    measured = desk.client.get_run(trial["run_id"]).data.metrics[BENCHMARK]
    assert float(found.tags[BENCHMARK]) == pytest.approx(measured, abs=1e-6)


def assert_pages_show_the_champion(desk: Desk, trial: dict[str, Any]) -> None:
    """Whether MLflow's pages of the model, and of the run that it comes from, show it."""
    desk.open(f"#/models/{MODEL}", expect="champion")
    desk.keep("model")
    links = [desk.page.get_by_role("link", name=f"Version {version}", exact=True) for version in "21"]
    newer, older = (desk.page.get_by_role("row").filter(has=link).inner_text() for link in links)
    assert "@\N{NO-BREAK SPACE}champion" in newer
    assert "@\N{NO-BREAK SPACE}previous" in older
    assert "@\N{NO-BREAK SPACE}champion" not in older
    run = desk.client.get_run(trial["run_id"])
    page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    text = desk.open(page, expect="embedded-training")
    assert MODEL in text[text.index("Registered models") :]
    for tag in ("study", "method", "student", "state", "seed", "pareto", "teacher_digest"):
        assert f"{tag}\n" in text


def assert_python_loads(desk: Desk, trial: dict[str, Any], *, other: dict[str, Any]) -> None:
    """Whether the documented lines load the student of one trial and not of another."""
    images = torch.rand(5, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected, unexpected = (embedded(each, images) for each in (trial, other))
    blocks = [block for page in ("README.md", "docs/promotion.md") for block in python_in(ROOT / page)]
    assert len(blocks) == 3
    for block in blocks:
        assert len([line for line in block.splitlines() if line]) <= 3
        told = block.replace("sqlite:////absolute/path/of/runs/mlflow.db", desk.server.uri)
        known: dict[str, Any] = {"images": images.numpy(), "torch": torch}
        exec(told.replace("face-student", MODEL), known)
        embeddings = known["embeddings"]
        if isinstance(embeddings, Tensor):
            embeddings = embeddings.detach().numpy()
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)
        assert not np.allclose(embeddings, unexpected, atol=1e-2)


def python_in(page: Path) -> list[str]:
    return [block.partition("```")[0] for block in page.read_text(encoding="utf-8").split("```python\n")[1:]]


def embedded(trial: dict[str, Any], images: Tensor) -> np.ndarray:
    """Raw embeddings by the student that a trial left on disk."""
    student, _ = load_student(Path(trial["checkpoint"]) / BEST)
    with torch.inference_mode():
        return student(images).numpy()


def assert_shell_embeds_and_verifies(trial: dict[str, Any], folder: Path) -> None:
    """Whether the champion's embeddings and verdict are those that its checkpoint gives by hand."""
    pairs = EmbeddedFacesSettings(size_px=SIZE_PX).benchmark_pairs()
    faces = pairs.images_NCHW / 127.5 - 1
    alone, mirrored = (embedded(trial, images) for images in (faces, faces.flip(3)))
    similarity = cosines(alone + mirrored, pairs)
    alike = int(np.where(pairs.is_genuine_P, similarity, -1).argmax())
    files = [folder / "left.png", folder / "right.png"]
    shown = [int(side[alike]) for side in (pairs.left_P, pairs.right_P)]
    for file, image in zip(files, shown, strict=True):
        Image.fromarray(pairs.images_NCHW[image].permute(1, 2, 0).numpy()).save(file)
    champion = ("--model", f"models:/{MODEL}@champion")

    rows = json.loads(distill("embed", *map(str, files), *champion))
    expected = alone[shown] / np.linalg.norm(alone[shown], axis=1, keepdims=True)
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)

    verdict = json.loads(distill("verify", *map(str, files), *champion, "--far", "1e-2", "--json"))
    accepted = similarity > verdict["threshold"]
    genuine = pairs.is_genuine_P.numpy()
    assert verdict["similarity"] == pytest.approx(similarity[alike], abs=1e-5)
    assert verdict["far"] == pytest.approx(accepted[~genuine].mean(), abs=1e-3)
    assert 0 < verdict["far"] <= 1e-2
    assert verdict["tar"] == pytest.approx(accepted[genuine].mean(), abs=1e-3)
    assert verdict["same_person"]


def cosines(embedding: np.ndarray, pairs: VerificationPairs) -> np.ndarray:
    """Of both images of each pair."""
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    return (unit[pairs.left_P.numpy()] * unit[pairs.right_P.numpy()]).sum(1)
