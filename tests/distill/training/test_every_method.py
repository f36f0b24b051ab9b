"""Every method, every loss and every margin through the training loop: it learns, and it repeats itself."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from distill.checkpoint import BEST, load_student
from distill.config import TrialConfig
from distill.errors import InputError
from distill.losses import LossName
from distill.losses.margins import AnyMarginSettings
from distill.training import train

pytestmark = pytest.mark.slow  # a hundred trainings of a second or two

SET = {"num_classes": 32, "images_per_class": 4}
PAIRED = {"name": "embedded", "size_px": 16, "captured_px": 32}
ADAPTER = {"name": "linear", "width": 64, "epochs": 2}
METHODS: dict[str, dict[str, Any]] = {
    "synthdistill": {"method": {"name": "synthdistill"}},
    "sface_classification": {"method": {"name": "sface", "strategy": "classification", **SET}},
    "sface_transfer": {"method": {"name": "sface", "strategy": "transfer", **SET}},
    "sface_combined": {"method": {"name": "sface", **SET}},
    "fair_kd": {"method": {"name": "fair_kd", "authentic_share": 0.5, **SET}},
    "bridge": {"method": {"name": "bridge", "adapter": ADAPTER, **SET}, "faces": PAIRED},
    "bridge_mixed": {
        "method": {"name": "bridge", "resolution": "mixed", "adapter": {"name": "none"}, **SET},
        "faces": {"name": "embedded", "size_px": 24, "captured_px": 32},
    },
}
CLASSIFIES_ITSELF = ("margin_distillation", "proxyless", "adadistill")
NEEDS_PAIRED_VIEWS = ("fskd", "askd")
MARGINS = [get_args(m.model_fields["name"].annotation)[0] for m in get_args(get_args(AnyMarginSettings)[0])]


def trial(**settings: Any) -> TrialConfig:
    small: dict[str, Any] = {
        "faces": {"name": "embedded", "size_px": 16},
        "training": {"epochs": 1, "faces_per_epoch": 96, "batch_size": 32},
        "optimizer": {"lr": 2e-3},
    }
    return TrialConfig.model_validate(small | settings)


def run(config: TrialConfig, directory: Path) -> list[dict[str, float]]:
    reports: list[dict[str, float]] = []
    train(config, report=lambda metrics, checkpoint: reports.append(metrics), directory=directory)
    return [{name: value for name, value in r.items() if "per_second" not in name} for r in reports]


def loss_trial(name: str) -> TrialConfig:
    method: dict[str, Any] = {"name": "sface", "num_classes": 32, "images_per_class": 4, "faces_per_class": 4}
    if name in CLASSIFIES_ITSELF:
        method["strategy"] = "transfer"
    if name in NEEDS_PAIRED_VIEWS:
        method |= {"name": "bridge", "adapter": {"name": "none"}}
    faces = PAIRED if name in NEEDS_PAIRED_VIEWS else {"name": "embedded", "size_px": 16}
    return trial(losses={"only": name}, method=method, faces=faces)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_numbers(tmp_path: Path, name: str) -> None:
    config = trial(**METHODS[name])
    first, second = (run(config, tmp_path / attempt) for attempt in ("first", "second"))
    assert first == second
    other = run(config.model_copy(update={"seed": 1}), tmp_path / "other")
    assert other[0]["train/loss"] != first[0]["train/loss"]


@pytest.mark.parametrize("name", METHODS)
def test_a_training_that_was_cut_off_continues_as_if_it_had_not_been(tmp_path: Path, name: str) -> None:
    config = trial(**METHODS[name], training={"epochs": 2, "faces_per_epoch": 96, "batch_size": 32})
    whole = run(config, tmp_path / "whole")

    class PowerCutError(Exception):
        pass

    def cut(metrics: dict[str, float], checkpoint: Path) -> None:
        raise PowerCutError

    with pytest.raises(PowerCutError):
        train(config, report=cut, directory=tmp_path / "cut")
    assert run(config, tmp_path / "cut") == [whole[1]]


@pytest.mark.parametrize("name", get_args(LossName))
def test_every_loss_trains_a_student(tmp_path: Path, name: str) -> None:
    (report,) = run(loss_trial(name), tmp_path)
    assert report[f"train/loss/{name}"] > 0


@pytest.mark.parametrize("name", MARGINS)
def test_every_margin_trains_a_student(tmp_path: Path, name: str) -> None:
    config = trial(method={"name": "fair_kd", "strategy": "classification", **SET}, margin={"name": name})
    (report,) = run(config, tmp_path)
    assert report["train/loss"] == report["train/loss/classification"] > 0


@pytest.mark.parametrize("strategy", ["classification", "combined"])
def test_a_classifier_comes_to_tell_the_classes_apart(tmp_path: Path, strategy: str) -> None:
    config = trial(
        method={"name": "sface", "strategy": strategy, **SET},
        training={"epochs": 4, "faces_per_epoch": 512, "batch_size": 64},
    )
    reports = run(config, tmp_path)
    losses = [report["train/loss/classification"] for report in reports]
    assert losses[-1] < 0.7 * losses[0]


def test_the_weights_of_student_classifier_and_losses_learn_and_the_teachers_do_not(tmp_path: Path) -> None:
    config = loss_trial("fitnet")
    before = [p.clone() for p in config.teacher.load().parameters()]
    run(config, tmp_path / "one")
    longer = config.model_copy(
        update={"training": config.training.model_copy(update={"faces_per_epoch": 192})}
    )
    run(longer, tmp_path / "two")
    one, two = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["learner"] for name in ("one", "two")
    )
    for part in ("student.", "classifier.", "losses."):
        moved = [name for name in one if name.startswith(part) and one[name].is_floating_point()]
        assert moved
        assert any(not torch.equal(one[name], two[name]) for name in moved)
    after = list(config.teacher.load().parameters())
    assert all(torch.equal(b, a) for b, a in zip(before, after, strict=True))


def test_a_student_of_its_own_width_is_saved_with_it(tmp_path: Path) -> None:
    config = trial(
        method={"name": "sface", "faces_per_class": 4, **SET}, losses={"only": "rkd"}, embedding_dim=32
    )
    (report,) = run(config, tmp_path)
    assert "validation/teacher_similarity" not in report
    student, card = load_student(tmp_path / BEST)
    assert card.embedding_dim == 32
    assert student(torch.zeros(1, 3, 16, 16)).shape == (1, 32)


def test_a_student_learns_from_another_trials_best_student(tmp_path: Path) -> None:
    run(trial(), tmp_path / "large")
    folder = str(tmp_path / "large" / BEST)
    config = trial(teacher={"name": "distilled", "folder": folder}, seed=1)
    (report,) = run(config, tmp_path / "small")
    assert report["train/loss"] > 0


def test_losses_on_maps_refuse_teachers_without_stages(tmp_path: Path) -> None:
    members = [{"name": "embedded"}, {"name": "embedded"}]
    config = loss_trial("fskd").model_copy(
        update={
            "teacher": TrialConfig.model_validate(
                {"teacher": {"name": "ensemble", "members": members}}
            ).teacher
        }
    )
    with pytest.raises(InputError, match="feature maps need a network with stages, which SideBySide has not"):
        run(config, tmp_path)


@pytest.mark.parametrize(("name", "lr"), [("sgd", 0.05), ("adam", 2e-3)])
def test_both_optimisers_learn_with_a_clipped_gradient(tmp_path: Path, name: str, lr: float) -> None:
    config = trial(
        **METHODS["sface_transfer"],
        optimizer={"name": name, "lr": lr, "clip_norm": 5.0},
        training={"epochs": 2, "faces_per_epoch": 512, "batch_size": 32},
    )
    reports = run(config, tmp_path)
    assert reports[1]["train/similarity"] > reports[0]["train/similarity"]
