"""Parts of a trial that do not get on are refused before anything runs, in one sentence."""

from typing import Any

import pytest
from pydantic import ValidationError

from distill.config import OptimizerSettings, TrialConfig

LABELLED = {"name": "sface", "num_classes": 64, "images_per_class": 4}
SMALL = {"epochs": 1, "faces_per_epoch": 64, "batch_size": 32}


def config(**settings: Any) -> TrialConfig:
    return TrialConfig.model_validate({"training": SMALL, **settings})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"losses": {"only": "proxyless"}},
            "losses.proxyless needs labels and teacher_centres, which method synthdistill does not offer",
        ),
        (
            {"losses": {"only": "hinton_kl"}, "method": {**LABELLED, "strategy": "transfer"}},
            r"losses.hinton_kl needs classifier, which method sface \(transfer\) does not offer",
        ),
        (
            {"losses": {"only": "ekd"}, "method": LABELLED},
            r"losses.ekd needs positives, which method sface \(combined\) does not offer",
        ),
        (
            {"losses": {"only": "fskd"}, "method": LABELLED},
            r"losses.fskd needs paired_views, which method sface \(combined\) does not offer",
        ),
        (
            {"losses": {"only": "cosine"}, "embedding_dim": 64},
            "embedding_dim must be 128 for losses.cosine, which needs embeddings as wide as those imitated",
        ),
        (
            {"losses": {"only": "cosine"}, "method": {**LABELLED, "strategy": "classification"}},
            r"losses must not be set where method sface \(classification\) imitates no teacher, got cosine",
        ),
        (
            {"margin": {"name": "arcface"}},
            "margin must not be set where method synthdistill classifies nothing, got arcface",
        ),
        (
            {"margin": {"name": "arcface"}, "method": {**LABELLED, "strategy": "transfer"}},
            r"margin must not be set where method sface \(transfer\) classifies nothing, got arcface",
        ),
        (
            {
                "losses": {"fskd": {}, "askd": {}},
                "method": {**LABELLED, "name": "bridge", "strategy": "transfer"},
            },
            r"losses must name one that compares embeddings where method bridge \(transfer\) classifies "
            "nothing, got fskd, askd",
        ),
        (
            {"method": {**LABELLED, "faces_per_class": 5}},
            "method.faces_per_class must be at most the 4 images of a class, got 5",
        ),
        (
            {"method": {**LABELLED, "faces_per_class": 3}},
            r"method.faces_per_class must divide training.batch_size \(32\), got 3",
        ),
        (
            {"method": {**LABELLED, "num_classes": 8, "faces_per_class": 2}},
            "method.num_classes must be at least the 16 of a batch, got 8",
        ),
        (
            {"method": {**LABELLED, "num_classes": 4}},
            r"method.num_classes times images_per_class must be at least training.batch_size \(32\), got 16",
        ),
        (
            {"faces": {"name": "embedded", "size_px": 32, "captured_px": 16}},
            r"captured_px must be at least size_px \(32\), got 16",
        ),
    ],
)
def test_refuses_what_cannot_be_combined(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        config(**settings)


def test_a_batch_must_be_as_large_as_its_losses_need() -> None:
    method = {**LABELLED, "faces_per_class": 2}
    training = {"epochs": 1, "faces_per_epoch": 64, "batch_size": 4}
    with pytest.raises(
        ValidationError, match=r"losses.ekd needs training.batch_size to be at least \d+, got 4"
    ):
        config(method=method, losses={"only": "ekd"}, training=training)


def test_losses_of_any_width_take_a_student_of_another_width() -> None:
    trial = config(losses={"only": "rkd"}, embedding_dim=64)
    assert trial.student_dim() == 64
    assert not trial.imitates_in_full()


def test_the_adapter_decides_how_wide_the_imitated_embedding_is() -> None:
    trial = config(method={**LABELLED, "name": "bridge", "adapter": {"name": "linear", "width": 64}})
    assert trial.target_dim() == trial.student_dim() == 64
    assert trial.imitates_in_full()


def test_a_weight_of_cosine_is_shown_as_the_papers_write_it() -> None:
    trial = config(method=LABELLED)
    assert trial.losses_in_use()["cosine"].weight == 39.0625
    # The paper's 10,000 at a width of 512 is 2,500 at this teacher's 128.
    assert trial.equivalents() == {"losses.cosine.lambda": 2_500.0}
    assert config().equivalents() == {}


def test_published_losses_and_margins_serve_where_none_is_named() -> None:
    trial = config(method=LABELLED)
    assert set(trial.losses_in_use()) == {"cosine"}
    margin = trial.margin_in_use()
    assert margin is not None
    assert (margin.name, margin.scale) == ("cosface", 64.0)
    scratch = config(method={**LABELLED, "strategy": "classification"})
    assert scratch.losses_in_use() == {}
    label_free = config(method={**LABELLED, "strategy": "transfer"})
    assert label_free.margin_in_use() is None


@pytest.mark.parametrize(("name", "kind"), [("adam", "AdamW"), ("sgd", "SGD")])
def test_the_optimiser_is_the_one_named(name: str, kind: str) -> None:
    import torch

    settings = OptimizerSettings.model_validate({"name": name, "weight_decay": 0.25})
    optimizer = settings.build([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer).__name__ == kind
    assert optimizer.param_groups[0]["weight_decay"] == 0.25
