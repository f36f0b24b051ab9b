"""The report of a real sweep, in a real browser: nothing overlaps, nothing is cut, and MLflow has a copy."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient
from PIL import Image

from sweeps.pages.write import SECTIONS
from tests.end_to_end.browser import chromium
from tests.end_to_end.machine import Machine

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

WIDTHS = {"phone": 390, "desk": 1280}
BOXES = "all => all.map(e => e.getBoundingClientRect()).map(b => [b.x, b.y, b.right, b.bottom])"


@pytest.fixture(scope="module")
def folder(swept: Machine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the report of the small sweep was written."""
    folder = tmp_path_factory.mktemp("report")
    done = swept.run("report", "small", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"wrote {folder / 'report.html'}" in done.stdout
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as browser:
        yield browser


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: "Browser", folder: Path) -> Iterator["Page"]:
    """The report at one width. Asking the network for anything fails the test."""
    page = browser.new_page(viewport={"width": WIDTHS[request.param], "height": 844})
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto((folder / "report.html").as_uri())
    yield page
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.close()


def overlap(first: list[float], second: list[float]) -> bool:
    """Whether two boxes (left, top, right, bottom) share more than an edge."""
    return (
        min(first[2], second[2]) - max(first[0], second[0]) > 1
        and min(first[3], second[3]) - max(first[1], second[1]) > 1
    )


def test_the_page_never_scrolls_sideways(page: "Page") -> None:
    wide, shown = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= shown


def test_every_picture_is_loaded_and_wholly_in_view(page: "Page") -> None:
    images = page.locator("img")
    assert images.count() > 12
    assert all(width > 900 for width in images.evaluate_all("all => all.map(i => i.naturalWidth)"))
    shown = page.evaluate("innerWidth")
    for left, _, right, _ in images.evaluate_all(BOXES):
        assert left >= 0
        assert right <= shown


@pytest.mark.parametrize("selector", ["section", "figure", "img, figcaption", ".facts > div", "h2, p, table"])
def test_nothing_lies_over_anything_else(page: "Page", selector: str) -> None:
    boxes = page.locator(selector).evaluate_all(BOXES)
    assert len(boxes) > 3
    for first, second in combinations(boxes, 2):
        assert not overlap(first, second), (selector, first, second)


def test_no_section_of_a_promoted_sweep_is_left_out(page: "Page") -> None:
    assert page.locator("section").count() == len(SECTIONS)
    left_out = page.locator("section p.absent").all_inner_texts()
    assert all("Importances need" in sentence or "off" in sentence for sentence in left_out), left_out
    assert "benchmark pairs" in page.locator("#verification").inner_text()


def test_printed_it_stays_within_the_paper(browser: "Browser", folder: Path) -> None:
    page = browser.new_page(viewport={"width": 690, "height": 1000})
    page.emulate_media(media="print")
    page.goto((folder / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 690
    assert page.locator("nav").is_hidden()
    page.close()


def test_page_and_pictures_are_artifacts_of_the_sweep(swept: Machine, folder: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{swept.home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], filter_string="tags.kind = 'sweep'")
    logged = {Path(item.path).name for item in client.list_artifacts(parent.info.run_id, "report")}
    assert logged == {path.name for path in folder.iterdir()}
    assert parent.info.status == "FINISHED"


def test_the_command_and_the_versions_are_on_the_page(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "sweeps run " in page
    assert "git checkout " in page
    assert "optuna" in page
    assert len(page.encode()) < 5_000_000


def test_the_pictures_lie_beside_the_page(folder: Path) -> None:
    names = {path.stem for path in folder.glob("report_*.png")}
    assert {"report_history", "report_learning_curves", "report_roc", "report_groups"} <= names
    for path in folder.glob("report_*.png"):
        with Image.open(path) as image:
            assert image.width > 900
