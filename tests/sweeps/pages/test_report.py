"""The page: it says what is so, leaves out what is not there, and takes nobody's word for HTML."""

import re
import time
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from distill.errors import InputError
from sweeps.home import Home
from sweeps.pages import write_report
from sweeps.pages.content import Section
from sweeps.pages.knowledge import Knowledge
from sweeps.pages.write import SECTIONS, render, sections_of
from sweeps.provenance import Provenance
from sweeps.tracking import Tracker
from tests.end_to_end.mlflow_server import MlflowServer
from tests.sweeps.pages.conftest import TEACHER_METRICS, Trial, give_student, make_study, measured_by_hand

SPACE = """
name: tiny
description: "A <b>bold</b> & simple study"
objectives: [{metric: validation/verification_accuracy, direction: maximize}]
base:
  faces: {name: embedded, size_px: 16}
  training: {epochs: 9}
parameters:
  student.name: {type: categorical, choices: [bridge_tiny, mobilefacenet]}
  student.width: {type: float, low: 0.25, high: 0.5, when: {student.name: mobilefacenet}}
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
search: {num_trials: 8, seed: 0}
"""
TINY = {"student.name": "bridge_tiny", "optimizer.lr": 1e-3}
WIDE = {"student.name": "mobilefacenet", "student.width": 0.5, "optimizer.lr": 5e-3}
MIXED = [
    Trial(TINY, curve=[0.6, 0.7, 0.8, 0.85, 0.86, 0.87, 0.88, 0.89, 0.9]),
    Trial(WIDE, curve=[0.5, 0.6, 0.7, 0.75, 0.8, 0.82, 0.84, 0.85, 0.86], size=400_000.0),
    Trial(TINY, "pruned", curve=[0.5, 0.55, 0.58], reason="stopped early after epoch 3", seconds=30.0),
    Trial(WIDE, "failed", reason="RuntimeError: <script>alert(1)</script>"),
    Trial(TINY, "failed", reason="RuntimeError: <script>alert(1)</script>"),
    Trial(WIDE, curve=[0.4, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.7], size=400_000.0),
    Trial(TINY, "interrupted", curve=[0.5]),
    Trial({**TINY, "optimizer.lr": 2e-3}, curve=[0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]),
]


class Seen(HTMLParser):
    """Tags, addresses and texts of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")
        ]
        self.ids += [found["id"] or ""] if tag == "section" else []
        if tag == "img":
            self.images.append(found)

    def handle_data(self, data: str) -> None:
        self.text += data


def known_of(home: Home, name: str = "tiny", **parts: object) -> Knowledge:
    """What is known of a study, some of it given."""
    known = Knowledge(home, name)
    known.__dict__.update(parts)
    return known


def by_anchor(known: Knowledge, *anchors: str) -> dict[str, Section]:
    """The sections, or those of these anchors alone."""
    return {section.anchor: section for section in sections_of(known, anchors or None)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = make_study(tmp_path_factory.mktemp("home"), SPACE, MIXED, teacher=TEACHER_METRICS)
    give_student(home, "tiny", 0)
    return home


@pytest.fixture(scope="module")
def known(home: Home) -> Knowledge:
    return known_of(home, measured=measured_by_hand())


@pytest.fixture(scope="module")
def sections(known: Knowledge) -> dict[str, Section]:
    return by_anchor(known)


@pytest.fixture(scope="module")
def page(known: Knowledge, sections: dict[str, Section]) -> str:
    return render(known, sections.values())


@pytest.fixture(scope="module")
def seen(page: str) -> Seen:
    return Seen(page)


def test_every_section_is_there_in_order(seen: Seen) -> None:
    assert seen.ids == [anchor for anchor, _, _ in SECTIONS]


def test_only_what_a_tracker_would_hold_is_left_out_of_a_sweep_without_one(
    sections: dict[str, Section],
) -> None:
    absent = {anchor: section.absent for anchor, section in sections.items() if section.absent}
    assert absent == {"resampling": "MLflow holds no similarity by epoch of the champion."}


def test_the_page_asks_the_network_for_nothing(page: str, seen: Seen) -> None:
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in seen.addresses)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(seen.tags)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page
    assert len(page.encode()) < 5_000_000


def test_every_picture_says_in_words_what_it_shows(seen: Seen) -> None:
    assert len(seen.images) > 12
    alts = [image["alt"] or "" for image in seen.images]
    assert all(len(alt) > 20 and alt.endswith(".") for alt in alts)
    assert seen.tags.count("figcaption") == len(seen.images)
    assert seen.tags.count("caption") == seen.tags.count("table")


def test_nothing_of_a_picture_is_cut_at_its_edge(seen: Seen) -> None:
    for image in seen.images:
        source = (image["src"] or "").partition(",")[2]
        pixels = np.asarray(Image.open(BytesIO(b64decode(source))).convert("RGB"))
        edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edges == 255).all(), image["alt"]
        assert pixels.shape[1] / pixels.shape[0] == pytest.approx(
            int(image["width"] or 0) / int(image["height"] or 1), rel=0.01
        )


def test_no_picture_is_empty(seen: Seen) -> None:
    for image in seen.images:
        source = (image["src"] or "").partition(",")[2]
        pixels = np.asarray(Image.open(BytesIO(b64decode(source))).convert("L"))
        assert (pixels < 200).mean() > 0.001, image["alt"]


def test_the_paragraph_tells_who_won_by_how_much_and_what_that_is_worth(seen: Seen) -> None:
    text = " ".join(seen.text.split())
    assert "searches 3 parameters (student, width and lr) of synthdistill" in text
    assert "Trial 0, a bridge_tiny of 0.20 M parameters (the teacher has 0.90 M)" in text
    assert "validation verification accuracy 90.00 % (the teacher's: 96.00 %)" in text
    assert "4 complete, 1 pruned, 2 failed, 1 interrupted" in text
    assert "claims nothing about real faces" in text


def test_words_of_users_are_no_html(page: str, seen: Seen) -> None:
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "A <b>bold</b> & simple study" in seen.text


def test_the_cost_counts_epochs_and_says_why_trials_failed(sections: dict[str, Section]) -> None:
    rows = {row[0]: row[1] for row in sections["cost"].content.tables[0].rows}
    assert rows["epochs trained"] == str(4 * 9 + 3 + 1)
    # Six of nine epochs, of ten seconds each.
    assert rows["epochs saved by stopping early"].startswith("6, 13% ")
    assert rows["epochs saved by stopping early"].endswith("about 1m00s of training")
    assert rows["failed 2 times"] == "RuntimeError: <script>alert(1)</script>"


def test_the_leaderboard_holds_every_trial_below_the_teacher(sections: dict[str, Section]) -> None:
    table = sections["leaderboard"].content.tables[0]
    assert table.head[:6] == [
        "rank",
        "trial",
        "state",
        "validation verification accuracy, %",
        "epochs",
        "time",
    ]
    ended = ["pruned", "failed", "failed", "interrupted"]
    assert [row[2] for row in table.rows] == ["teacher", *(["complete"] * 4), *ended]
    assert [row[1] for row in table.rows[1:5]] == ["0", "1", "7", "5"]
    assert list(table.rows[1][3:6]) == ["90.0000", "9", "1m00s"]
    assert table.emphasised == {1}


def test_what_it_takes_to_repeat_the_sweep_is_on_the_page(seen: Seen, home: Home) -> None:
    assert home.study("tiny").space.read_text() in seen.text
    assert "sweeps run space.yaml --name tiny-again" in seen.text
    assert "teachers-digest" in seen.text


def test_writing_replaces_the_pictures_of_an_earlier_report_and_nothing_else(
    tmp_path: Path, read_faces: str
) -> None:
    home = make_study(tmp_path / "home", of_files(read_faces), [Trial({"optimizer.lr": 1e-3}, curve=[0.8])])
    out = tmp_path / "out"
    out.mkdir()
    (out / "report_slice_99.png").write_bytes(b"stale")
    (out / "mine.png").write_bytes(b"mine")
    report = write_report(home, "read", folder=out)
    assert report.page == out / "report.html"
    assert set(out.iterdir()) == {report.page, *report.pictures, out / "mine.png"}
    sources = [(image["src"] or "").partition(",")[2] for image in Seen(report.page.read_text()).images]
    assert {b64decode(source) for source in sources} == {path.read_bytes() for path in report.pictures}
    assert report.not_logged is not None
    assert "has no run of this sweep" in report.not_logged
    assert not (home.root / "mlflow.db").exists()


def test_a_study_that_is_not_there_is_told_in_a_sentence(home: Home) -> None:
    with pytest.raises(InputError, match="there is no study 'tinny'"):
        write_report(home, "tinny")


def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    home = make_study(tmp_path / "home", SPACE, [Trial(TINY, "failed", reason="it broke")])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/out cannot be written"):
        write_report(home, "tiny", folder=tmp_path / "file" / "out")


def test_where_all_trials_failed_the_sections_say_so(tmp_path: Path) -> None:
    trials = [Trial(TINY, "failed", reason="OutOfMemoryError: no room") for _ in range(3)]
    known = known_of(make_study(tmp_path, SPACE, trials))
    found = by_anchor(known)
    assert {anchor for anchor, section in found.items() if not section.absent} == {
        "cost",
        "leaderboard",
        "repeat",
    }
    assert found["history"].absent == "No trial has reported a value yet: 3 failed."
    assert found["verification"].absent == "No trial has completed, so there is no student to look at."
    assert ("failed 3 times", "OutOfMemoryError: no room") in found["cost"].content.tables[0].rows
    text = " ".join(Seen(render(known, found.values())).text.split())
    assert "No trial has completed: 3 failed." in text
    assert "Left out. No trial has finished an epoch" in text


def test_a_study_whose_first_trial_has_not_begun_has_a_page(tmp_path: Path) -> None:
    known = known_of(make_study(tmp_path, SPACE, []))
    found = by_anchor(known)
    assert all(section.absent for anchor, section in found.items() if anchor != "repeat")
    assert "No trial has begun." in Seen(render(known, found.values())).text


def test_a_sweep_that_still_runs_says_how_far_it_is(tmp_path: Path) -> None:
    home = make_study(tmp_path, SPACE, [MIXED[0], Trial(WIDE, "running", curve=[0.5, 0.6])])
    with home.study("tiny").driven():
        known = known_of(home, measured=measured_by_hand())
        found = by_anchor(known, "history", "curves", "cost", "leaderboard")
        text = " ".join(Seen(render(known, found.values())).text.split())
    assert known.state == "running"
    assert "The sweep is still running" in text
    assert "Trial 0, a bridge_tiny of 0.20 M parameters, leads with" in text
    assert "1 of 8" in text
    assert not any(section.absent for section in found.values())
    assert known.curve(known.rows[1]) == [(1, 0.5), (2, 0.6)]


def test_a_teacher_that_nobody_has_measured_yet_is_measured(tmp_path: Path, read_faces: str) -> None:
    home = make_study(tmp_path, of_files(read_faces), [Trial({"optimizer.lr": 1e-3}, curve=[0.8])])
    give_student(home, "read", 0)
    known = known_of(home, "read")
    assert 0 <= known.teacher["validation/verification_accuracy"] <= 1
    assert known.teacher["efficiency/parameters"] > 100_000


def test_a_stopped_sweep_says_how_it_goes_on(tmp_path: Path) -> None:
    known = known_of(make_study(tmp_path, SPACE, [MIXED[0], MIXED[6]]), measured=measured_by_hand())
    text = " ".join(Seen(render(known, [])).text.split())
    assert "The sweep was stopped before its end; sweeps resume tiny goes on with it." in text


def test_one_trial_of_one_epoch_fills_a_page(tmp_path: Path) -> None:
    home = make_study(tmp_path, SPACE, [Trial(TINY, curve=[0.8])], teacher=TEACHER_METRICS)
    give_student(home, "tiny", 0)
    drawn = ("history", "curves", "slices", "parallel", "pareto", "faces")
    found = by_anchor(known_of(home, measured=measured_by_hand()), "importances", *drawn)
    assert found["importances"].absent == "Importances need at least 4 completed trials, and there is 1."
    for anchor in drawn:
        assert found[anchor].content.pictures, anchor


def test_a_student_that_was_not_kept_is_told_where_it_is_missed(tmp_path: Path) -> None:
    known = known_of(make_study(tmp_path, SPACE, MIXED, teacher=TEACHER_METRICS))
    found = by_anchor(known, "verification", "groups", "faces", "hardest", "repeat")
    for anchor in ("verification", "groups", "faces", "hardest"):
        assert re.search(r"is not a student's folder: it has no student\.json\.$", found[anchor].absent), (
            anchor
        )
    assert not found["repeat"].absent


PARETO = """
name: tiny
objectives:
  - {metric: validation/verification_accuracy, direction: maximize}
  - {metric: validation/fairness/shared_threshold_std, direction: minimize}
  - {metric: efficiency/parameters, direction: minimize}
base: {faces: {name: embedded, size_px: 16}}
parameters:
  student.name: {type: categorical, choices: [bridge_tiny, mobilefacenet]}
  student.width: {type: float, low: 0.25, high: 0.5, when: {student.name: mobilefacenet}}
search: {sampler: nsgaii, num_trials: 8, seed: 0}
scheduler: {name: none}
"""


def test_several_objectives_each_have_a_history_and_planes_of_their_own(tmp_path: Path) -> None:
    tiny, wide = {"student.name": "bridge_tiny"}, {"student.name": "mobilefacenet", "student.width": 0.3}
    trials = [
        Trial(tiny, curve=[0.8], spread=0.01, size=100.0),
        Trial(wide, curve=[0.9], spread=0.04, size=300.0),
        Trial(wide, curve=[0.85], spread=0.05, size=400.0),
        Trial(tiny, curve=[0.7], spread=0.02, size=100.0),
        Trial(wide, curve=[0.91], spread=0.03, size=900.0),
    ]
    known = known_of(make_study(tmp_path, PARETO, trials))
    found = by_anchor(known, "history", "pareto", "importances")
    assert [picture.name for picture in found["history"].content.pictures] == [
        "history",
        "history_2",
        "history_3",
    ]
    assert len(found["pareto"].content.pictures) == 3
    assert found["pareto"].content.text[0].startswith("3 trials of 5 completed")
    assert "at once: 0, 1 and 4." in found["pareto"].content.text[0]
    assert "the Pareto front" in found["importances"].content.pictures[0].caption


def of_files(faces: str) -> str:
    return f"""
name: read
objectives: [{{metric: validation/verification_accuracy, direction: maximize}}]
base:
  faces: {faces}
  method: {{name: sface, num_classes: 2, images_per_class: 2, strategy: transfer}}
  training: {{epochs: 1, faces_per_epoch: 4, batch_size: 4}}
parameters:
  optimizer.lr: {{type: float, low: 1.0e-4, high: 1.0e-2, log: true}}
search: {{num_trials: 1, seed: 0}}
scheduler: {{name: none}}
"""


def test_faces_that_are_read_have_no_resampling_and_may_have_no_groups(
    tmp_path: Path, read_faces: str
) -> None:
    home = make_study(tmp_path, of_files(read_faces), [Trial({"optimizer.lr": 1e-3}, curve=[0.8])])
    give_student(home, "read", 0)
    known = known_of(home, "read")
    found = by_anchor(known)
    sentence = "Training faces are read from files: there is no generator whose latents could be re-sampled."
    assert found["resampling"].absent == found["faces"].absent == sentence
    assert found["groups"].absent == "The 20 validation pairs name no demographic groups."
    assert found["hardest"].content.pictures
    assert "real faces" not in render(known, found.values())


def test_names_that_look_like_formulas_or_html_reach_pictures_and_page_as_they_are(tmp_path: Path) -> None:
    odd = r"<i>$\frac{1}$</i>"
    space = SPACE.replace("choices: [bridge_tiny, mobilefacenet]", "choices: [bridge_tiny]").replace(
        "  student.width: {type: float, low: 0.25, high: 0.5, when: {student.name: mobilefacenet}}\n", ""
    )
    home = make_study(tmp_path, space, [Trial(TINY, curve=[0.8]), Trial(TINY, curve=[0.7])])
    known = known_of(home, measured=measured_by_hand(groups=(odd, "plain")))
    for row in known.rows:
        row.params[odd] = odd
    found = by_anchor(known, "slices", "parallel", "groups", "leaderboard")
    page = render(known, found.values())
    assert "<i>" not in page
    assert odd in Seen(page).text
    assert not any(section.absent for section in found.values())


def test_a_tracker_that_is_away_costs_no_wait_and_no_page(tmp_path: Path, read_faces: str) -> None:
    home = make_study(tmp_path / "home", of_files(read_faces), [Trial({"optimizer.lr": 1e-3}, curve=[0.8])])
    began = time.monotonic()
    report = write_report(replace(home, tracking_uri="http://me:s3cret@127.0.0.1:9"), "read")
    assert time.monotonic() - began < 30  # MLflow's client would try for minutes
    assert report.page.exists()
    assert report.not_logged == "http://me:***@127.0.0.1:9 has no run of this sweep, or does not answer"


@pytest.mark.slow
def test_a_server_that_asks_for_a_password_has_the_page_and_its_pictures(
    tmp_path: Path, read_faces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    settings = tmp_path / "auth.ini"
    settings.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path / 'auth.db'}\n"
        "admin_username = admin\nadmin_password = correct horse battery\n"
    )
    variables = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test"}
    server = MlflowServer(tmp_path, options=("--app-name", "basic-auth"), environment=variables).start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse battery")
        yaml = of_files(read_faces)
        made = make_study(tmp_path / "home", yaml, [Trial({"optimizer.lr": 1e-3}, curve=[0.8])])
        home = replace(made, tracking_uri=server.uri)
        tracker = Tracker(home, study="read", on_run=lambda number, run_id: None)
        provenance = Provenance(commit=None, difference="", command="sweeps run")
        tracker.start_sweep(space_yaml=yaml, params={}, provenance=provenance)
        tracker.finish_sweep(status="FINISHED", metrics={}, leaderboard={})
        assert tracker.close()
        report = write_report(home, "read")
        assert report.not_logged is None
        assert "sweeps run" in report.page.read_text()
        assert tracker.parent_run_id is not None
        kept = MlflowClient(server.uri).list_artifacts(tracker.parent_run_id, "report")
        names = {Path(file.path).name: file.file_size for file in kept}
        assert names == {path.name: path.stat().st_size for path in (report.page, *report.pictures)}
    finally:
        server.kill()
