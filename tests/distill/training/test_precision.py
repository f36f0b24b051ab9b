"""Mixed precision: networks run in bfloat16, and what is kept, compared or reported stays float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.checkpoint import LAST
from distill.config import TrialConfig
from distill.errors import DivergenceError
from distill.methods import SynthDistill
from distill.training import Process, train
from distill.training.loop import Trainer
from distill.training.parts import frozen_parts

PAIRED = {"name": "embedded", "size_px": 16, "captured_px": 32}
MAPS = {
    "faces": PAIRED,
    "method": {"name": "bridge", "adapter": {"name": "none"}, "num_classes": 32, "images_per_class": 4},
    "losses": {"fskd": {}, "raw_mse": {}},
}


def trial(precision: str, **settings: Any) -> TrialConfig:
    small: dict[str, Any] = {
        "faces": {"name": "embedded", "size_px": 16},
        "training": {"epochs": 1, "faces_per_epoch": 64, "batch_size": 32, "precision": precision},
        "optimizer": {"lr": 2e-3},
    }
    return TrialConfig.model_validate(small | settings)


def run(config: TrialConfig, directory: Path) -> dict[str, float]:
    reports: list[dict[str, float]] = []
    train(config, report=lambda metrics, checkpoint: reports.append(metrics), directory=directory)
    return reports[-1]


@pytest.mark.parametrize("settings", [{}, MAPS], ids=["synthdistill", "feature maps"])
def test_a_training_in_bfloat16_goes_as_one_in_float32_nearly(tmp_path: Path, settings: Any) -> None:
    whole = run(trial("float32", **settings), tmp_path / "float32")
    half = run(trial("bfloat16", **settings), tmp_path / "bfloat16")
    assert half["train/loss"] != whole["train/loss"]
    assert half["train/loss"] == pytest.approx(whole["train/loss"], rel=0.03)
    states = [torch.load(tmp_path / name / LAST, weights_only=True) for name in ("float32", "bfloat16")]
    kinds = [{name: tensor.dtype for name, tensor in state["learner"].items()} for state in states]
    assert kinds[0] == kinds[1]


def test_networks_calculate_in_bfloat16_and_what_they_say_is_compared_in_float32() -> None:
    config = trial("bfloat16")
    process = Process.current()
    trainer = Trainer(config, frozen_parts(config.faces, config.teacher, process.device), process)
    inside: list[torch.dtype] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        inside.append(output.dtype)

    teacher = trainer._parts.teacher
    handles = [
        next(m for m in network.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(keep)
        for network in (trainer.student, teacher)
    ]
    compared: list[torch.dtype] = []
    assert isinstance(trainer._method, SynthDistill)
    trainer._learner.losses.register_forward_pre_hook(
        lambda module, args, kwargs: compared.extend(
            [kwargs["student"].embedding.dtype, kwargs["teacher"].embedding.dtype]
        ),
        with_kwargs=True,
    )
    try:
        trainer.train_epoch()
        assert set(inside) == {torch.bfloat16}
        assert set(compared) == {torch.float32}
        inside.clear()
        trainer.evaluate()
        assert set(inside) == {torch.float32}
    finally:
        for handle in handles:
            handle.remove()


def test_the_same_faces_are_drawn_in_either_precision() -> None:
    process = Process.current()
    drawn = []
    for precision in ("float32", "bfloat16"):
        config = trial(precision)
        trainer = Trainer(config, frozen_parts(config.faces, config.teacher, process.device), process)
        with torch.no_grad(), trainer._autocast():
            drawn.append(trainer._method.next_batch().images)
    assert torch.equal(*drawn)


def test_a_training_that_diverges_in_bfloat16_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="diverged"):
        run(trial("bfloat16", optimizer={"lr": 1e30}), tmp_path)
