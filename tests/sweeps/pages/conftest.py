"""Studies that are made by hand: what their trials came to is written down, and nothing is trained."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState
from PIL import Image

from distill.checkpoint import BEST, save_student
from distill.faces import VerificationPairs
from distill.students import BridgeTinySettings
from sweeps.home import Home
from sweeps.pages.knowledge import Measured
from sweeps.space import SearchSpace, parse_space
from sweeps.study import CONFIRMS, EPOCHS, OUTCOME, POINT, SEED_OFFSET, TEACHER, create_study
from tests.distill.faces.packs.pictures import encoded, picture, python_2_pack

ACCURACY, PARAMETERS = "validation/verification_accuracy", "efficiency/parameters"
BYTES, SPREAD = "efficiency/weight_bytes", "validation/fairness/shared_threshold_std"
TEACHER_METRICS = {ACCURACY: 0.96, SPREAD: 0.01, PARAMETERS: 900_000.0, BYTES: 3_600_000.0}
SIZE_PX = 16


@dataclass(frozen=True)
class Trial:
    """What one trial came to.

    Attributes:
        state: As the leaderboard calls it.
        curve: Its accuracies by epoch; the last is its best.
        repeats: The trial whose point it trains again, and how often that was done before it.
        confirms: Whether it confirms a finalist.
    """

    params: dict[str, Any]
    state: str = "complete"
    curve: list[float] = field(default_factory=list)
    size: float = 200_000.0
    spread: float = 0.03
    reason: str | None = None
    seconds: float = 60.0
    repeats: tuple[int, int] | None = None
    confirms: bool = False


def make_study(
    root: Path, yaml: str, trials: Iterable[Trial], *, teacher: dict[str, float] | None = None
) -> Home:
    """Writes a study into a home of its own. No tracker holds anything of it."""
    space = parse_space(yaml, file="space.yaml")
    home = Home.at(str(root), f"sqlite:///{root / 'mlflow.db'}")
    home.ensure()
    folder = home.study(space.name)
    folder.root.mkdir()
    folder.space.write_text(space.to_yaml())
    study = create_study(home, space.name, space)
    if teacher is not None:
        study.set_user_attr(TEACHER, teacher)
    for trial in trials:
        point, before = trial.repeats or (None, 0)
        again = {} if point is None else {POINT: point, SEED_OFFSET: before + 1}
        study.enqueue_trial(trial.params, user_attrs=again | ({CONFIRMS: True} if trial.confirms else {}))
        asked = study.ask()
        space.sample(asked)
        _tell(study, asked, trial, space)
    return home


def _tell(study: Any, asked: Any, trial: Trial, space: SearchSpace) -> None:
    metrics = {}
    for epoch, value in enumerate(trial.curve, start=1):
        if len(space.objectives) == 1:
            asked.report(value, epoch)
        metrics = {ACCURACY: value, SPREAD: trial.spread, PARAMETERS: trial.size, BYTES: 4 * trial.size}
    asked.set_user_attr(EPOCHS, len(trial.curve))
    if trial.state != "running" and trial.state != "interrupted":
        outcome = {"reason": trial.reason, "metrics": metrics, "seconds": trial.seconds}
        asked.set_user_attr(OUTCOME, outcome)
    if trial.state == "complete":
        study.tell(asked, [metrics[objective.metric] for objective in space.objectives])
    elif trial.state != "running":
        study.tell(asked, state=TrialState.PRUNED if trial.state == "pruned" else TrialState.FAIL)


def give_student(home: Home, name: str, number: int, *, size_px: int = SIZE_PX) -> None:
    """Puts an untrained student where a trial's best one is looked for."""
    torch.manual_seed(0)
    settings = BridgeTinySettings()
    save_student(
        settings.build(embedding_dim=128, size_px=size_px),
        home.study(name).trial(number) / BEST,
        student=settings,
        embedding_dim=128,
        size_px=size_px,
        epoch=1,
        metrics={},
        teacher_digest="teachers-digest",
    )


def measured_by_hand(*, groups: tuple[str, ...] = ("north", "south"), people: int = 12) -> Measured:
    """Pairs of small pictures, and similarities of a fair champion and a good teacher."""
    rng = torch.Generator().manual_seed(0)
    num_images = 2 * people * len(groups)
    identity_N = torch.arange(num_images) // 2
    genuine = torch.arange(0, num_images, 2)
    # Both people of an impostor pair are of one group, whose people follow each other.
    shifted = torch.arange(num_images).view(len(groups), -1).roll(2, dims=1).flatten()[::2]
    left_P, right_P = torch.cat([genuine, genuine]), torch.cat([genuine + 1, shifted])
    is_genuine_P = torch.arange(len(left_P)) < len(genuine)
    order = torch.randperm(len(left_P), generator=rng)
    pairs = VerificationPairs(
        name="validation",
        images_NCHW=torch.randint(256, (num_images, 3, 8, 8), generator=rng, dtype=torch.uint8),
        left_P=left_P[order],
        right_P=right_P[order],
        is_genuine_P=is_genuine_P[order],
        group_P=(left_P[order] // (2 * people)) if groups else torch.zeros_like(left_P),
        group_names=groups,
        identity_N=identity_N,
    )
    noise_2P = torch.randn(2, len(order), generator=rng, dtype=torch.float64)
    clear_P = pairs.is_genuine_P.double()
    return Measured(
        pairs=pairs,
        champion_P=(0.5 * clear_P + 0.25 * noise_2P[0]).clamp(-1, 1),
        teacher_P=(0.7 * clear_P + 0.15 * noise_2P[1]).clamp(-1, 1),
    )


@pytest.fixture(scope="session")
def read_faces(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Settings of faces that are read, in YAML: four pictures to train on, and twenty pairs."""
    folder = tmp_path_factory.mktemp("read") / "people"
    for person in ("ada", "bob"):
        (folder / person).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32), (90 * number, 80, 120)).save(folder / person / f"{number}.png")
    images = [encoded(picture(number)) for number in range(40)]
    (folder.parent / "pairs.bin").write_bytes(python_2_pack(images, [True, False] * 10, protocol=2))
    pack = f"{{path: {folder.parent / 'pairs.bin'}}}"
    return (
        f"{{name: files, size_px: {SIZE_PX}, training: [{{path: {folder}}}], "
        f"validation: {pack}, benchmark: {pack}}}"
    )
