"""Trials are measured on the pairs that they share, and no further: what differs, and what is real."""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from distill.checkpoint import BEST, load_student, save_student
from distill.errors import InputError, RefusedError
from distill.evaluation import Resampled, embed_pairs, pair_similarity, resampled_metrics
from sweeps.cli import main
from sweeps.compare import Comparison, _best_after, _ranked, as_text, compare, verdict
from sweeps.home import Home
from sweeps.space import parse_space
from sweeps.study import EPOCHS, OUTCOME, create_study, read_space
from tests.sweeps.small_home import ACCURACY, SPACE, built, copied


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def home(root: Path) -> Home:
    return built(root)


@pytest.fixture(scope="module")
def compared(home: Home) -> Comparison:
    return compare(home, ["tiny", "tiny:1", "teacher"])


def shown(comparison: Comparison, *, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(as_text(comparison, width=width), soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def of_another_size(home: Home) -> None:
    """Gives trial 1 of `other` a student that takes faces of 20 px, in a study of such."""
    text = SPACE.replace("size_px: 16", "size_px: 20").replace("name: tiny", "name: other")
    space = parse_space(text, file="other.yaml")
    folder = home.study("other")
    folder.root.mkdir()
    folder.space.write_text(space.to_yaml())
    study = create_study(home, "other", space)
    trial = study.ask()
    space.sample(trial)
    trial.set_user_attr(EPOCHS, 4)
    trial.set_user_attr(OUTCOME, {"reason": None, "metrics": {ACCURACY: 0.6}, "seconds": 1.0})
    study.tell(trial, 0.6)
    config = space.config(trial.params)
    save_student(
        config.student.build(embedding_dim=config.student_dim(), size_px=20),
        folder.trial(0) / BEST,
        student=config.student,
        embedding_dim=config.student_dim(),
        size_px=20,
        epoch=1,
        metrics={},
        teacher_digest="0" * 64,
    )


def test_only_settings_that_differ_are_told(compared: Comparison) -> None:
    assert compared.differing() == {"optimizer.lr": [3e-3, 2e-4]}


def test_a_study_alone_stands_for_its_best_trial(compared: Comparison) -> None:
    assert [subject.name for subject in compared.subjects] == ["tiny:0", "tiny:1", "teacher"]
    assert compared.subjects[0].study == "tiny"


def test_differences_are_those_of_both_students_on_the_same_people(home: Home, compared: Comparison) -> None:
    config = read_space(home, "tiny").config({"optimizer.lr": 1e-3})
    pairs = config.faces.validation_pairs()
    networks = [load_student(home.study("tiny").trial(number) / BEST)[0] for number in (0, 1)]
    first, second = (
        resampled_metrics(pair_similarity(embed_pairs(network, pairs), pairs), pairs) for network in networks
    )
    differences = compared.differences(1)
    assert set(differences) == set(first)
    for name, difference in differences.items():
        assert difference.value == second[name].value - first[name].value
        assert difference.interval == (second[name] - first[name]).interval


def test_the_teacher_is_really_better_than_a_student_of_one_short_epoch(compared: Comparison) -> None:
    difference = compared.differences(2)["verification_accuracy"]
    assert difference.value > 0.2
    assert verdict("verification_accuracy", difference) == "really better"
    assert verdict("eer", compared.differences(2)["eer"]) == "really better"


def test_a_trial_does_not_differ_from_itself(home: Home) -> None:
    itself = compare(home, ["tiny:1", "tiny:1"])
    assert {verdict(name, value) for name, value in itself.differences(1).items()} == {"not resolved"}
    assert itself.differing() == {}


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("auc", [0.1, 0.2, 0.3], "really better"),
        ("auc", [-0.1, -0.2, -0.3], "really worse"),
        ("eer", [0.1, 0.2, 0.3], "really worse"),
        ("eer", [-0.1, 0.0, 0.1], "not resolved"),
    ],
)
def test_verdicts_know_the_better_side(metric: str, values: list[float], expected: str) -> None:
    value_R = torch.tensor(values, dtype=torch.float64)
    assert verdict(metric, Resampled(value=value_R.mean().item(), value_R=value_R, over="people")) == expected


def test_other_pairs_are_not_compared(root: Path, tmp_path: Path) -> None:
    home = copied(root, tmp_path / "home")
    of_another_size(home)
    comparison = compare(home, ["tiny:0", "other:0"])
    assert comparison.differences(1) == {}
    assert comparison.measured[1].refusal == "its validation pairs are not those of tiny:0 (embedded, 20 px)"
    text = shown(comparison)
    assert "B is not tested against A: its validation pairs are not those of tiny:0" in text
    assert "really" not in text
    assert "as recorded" in text


def test_a_student_that_was_thrown_away_keeps_its_recorded_numbers(root: Path, tmp_path: Path) -> None:
    home = copied(root, tmp_path / "home")
    shutil.rmtree(home.study("tiny").trial(1))
    comparison = compare(home, ["tiny:0", "tiny:1"])
    assert "is not kept in" in (comparison.measured[1].refusal or "")
    recorded = next(line for line in shown(comparison).splitlines() if line.startswith(ACCURACY))
    assert recorded.split()[-1] == "0.5100"


def test_nothing_is_tested_where_the_first_cannot_be_measured(home: Home) -> None:
    comparison = compare(home, ["tiny:2", "tiny:0"])
    assert [measured.refusal for measured in comparison.measured] == [
        "it has no student",
        "tiny:2 could not be measured",
    ]


@pytest.mark.slow
def test_the_benchmark_is_measured_only_where_that_is_asked_for(home: Home, compared: Comparison) -> None:
    assert compared.warnings == []
    looked_at = compare(home, ["tiny:0", "tiny:1"], of="benchmark")
    assert "the benchmark was looked at" in looked_at.warnings[0]
    assert looked_at.measured[0].digest != compared.measured[0].digest


def test_studies_are_counted_and_compared_after_as_many_epochs(root: Path, tmp_path: Path) -> None:
    home = copied(root, tmp_path / "home")
    of_another_size(home)
    study, other = compare(home, ["tiny", "other"]).studies
    assert study.states == {"complete": 2, "failed": 1}
    assert (study.epochs, other.epochs) == (2, 4)
    assert study.best_after[2] == study.best_after[1] != 0.51  # trial 1 adds nothing to trial 0
    assert other.best_after == {1: None, 2: None}  # its one trial took four


def test_what_a_study_had_found_by_then_is_of_the_trials_that_fit(home: Home) -> None:
    space = read_space(home, "tiny")
    rows = _ranked(home, "tiny", space)
    assert _best_after(rows, space, 0) is None
    assert _best_after(rows, space, 1) == rows[0].metrics[ACCURACY]
    assert _best_after(rows[1:], space, 5) == 0.51


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(compared: Comparison, width: int) -> None:
    assert all(len(line) <= width for line in shown(compared, width=width).splitlines())


def test_the_command_prints_one_document(home: Home) -> None:
    done = CliRunner().invoke(main, ["compare", "tiny:0", "tiny:1", "--home", str(home.root), "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["settings"] == {"optimizer.lr": {"tiny:0": 3e-3, "tiny:1": 2e-4}}
    first, second = document["subjects"]
    assert first["pairs_sha256"] == second["pairs_sha256"]
    assert first["differences"] == {}
    difference = second["differences"]["verification_accuracy"]
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert difference["verdict"] in ("really worse", "really better", "not resolved")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tiny:0"], "compare needs two trials or more, got tiny:0"),
        (["tiny:0", "tiny:9"], "study tiny has no trial 9"),
        (["tiny:0", "tiny:best"], "a trial must be named STUDY:NUMBER, got 'tiny:best'"),
        (["tiny:0", "small"], "there is no study 'small'"),
        (["teacher", "teacher"], "needs a trial, to know whose teacher is meant"),
    ],
)
def test_a_wrong_name_is_told_in_one_sentence(home: Home, names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(home, names)


def test_a_study_without_a_complete_trial_has_no_best(root: Path, tmp_path: Path) -> None:
    home = copied(root, tmp_path / "home")
    folder = home.study("empty")
    folder.root.mkdir()
    shutil.copy(home.study("tiny").space, folder.space)
    create_study(home, "empty", read_space(home, "tiny"))
    with pytest.raises(RefusedError, match="study empty has no complete trial"):
        compare(home, ["empty", "tiny"])
