"""What a sweep on a labelled set gains where the teacher's embeddings are kept for all its trials.

A sweep of 8 trials x 5 epochs, in one process. With the cache, the first trial embeds the set once and all
later epochs map it from a file; without, the teacher embeds every batch, as it must where it sees augmented
faces. Two teachers side by side stand for a large one. And an epoch with cached embeddings is set against one
that needs no teacher at all: what the cache itself costs.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.row import Goal, Row, in_turns, seconds
from distill.config import TrialConfig
from distill.evaluation import static_efficiency_of, teacher_efficiency
from distill.methods import LabelledDistillation
from distill.training import Process, train
from distill.training.loop import Trainer
from distill.training.memory import keep_freed_memory
from distill.training.parts import frozen_parts

SIZE_PX, TRIALS, EPOCHS = 16, 8, 5
SEEN = {"cached": "student", "asked": "both"}
"""Who sees the faces as they are changed."""


def measure(quick: bool) -> list[Row]:
    """One thread."""
    torch.set_num_threads(1)
    keep_freed_memory()
    num_faces, repetitions = (256, 1) if quick else (2048, 5)
    with tempfile.TemporaryDirectory() as folder:
        return [
            _sweep(num_faces, Path(folder), repetitions=repetitions),
            _epoch(num_faces, Path(folder) / "epochs", repetitions=repetitions if quick else 15),
        ]


def trial(way: str, *, num_faces: int, strategy: str = "transfer") -> TrialConfig:
    """A student of the smallest kind and a teacher of about ten times its multiply-adds.

    An epoch is one pass over the set.
    """
    settings: dict[str, Any] = {
        "faces": {"name": "embedded", "size_px": SIZE_PX},
        "teacher": {"name": "ensemble", "members": [{"name": "embedded"}, {"name": "embedded"}]},
        "student": {"name": "bridge_tiny"},
        "method": {
            "name": "sface",
            "strategy": strategy,
            "num_classes": num_faces // 8,
            "images_per_class": 8,
            "augmentation": {"brightness": 0.1, "seen_by": SEEN[way]},
        },
        "training": {"epochs": EPOCHS, "faces_per_epoch": num_faces, "batch_size": 128},
    }
    return TrialConfig.model_validate(settings)


def _sweep(num_faces: int, folder: Path, *, repetitions: int) -> Row:
    """Trials an hour. Those after the first are alike: one is timed and stands for all."""

    def one(way: str, cache: Path) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as directory:
            config = trial(way, num_faces=num_faces)
            return seconds(
                lambda: train(
                    config, report=lambda metrics, checkpoint: None, directory=Path(directory), cache=cache
                )
            )

    def with_cache() -> float:
        cache = Path(tempfile.mkdtemp(dir=folder))
        return 3600 * TRIALS / (one("cached", cache) + (TRIALS - 1) * one("cached", cache))

    def without() -> float:
        return 3600 / one("asked", folder / "unused")

    without()  # draws the faces, and loads the teacher
    ours, other = in_turns(with_cache, without, repetitions=repetitions)
    return Row(
        name="teacher_cache",
        what=f"a sweep of {TRIALS} trials x {EPOCHS} epochs on a labelled set, teacher's embeddings cached",
        unit="trials an hour",
        ours=ours,
        other=other,
        against="the teacher embeds every batch",
        goal=Goal(side="at least", bound=3),
        note=f"one thread; {num_faces:,} faces of {SIZE_PX} px an epoch, each epoch evaluated; the teacher "
        f"takes {_times_as_dear():.1f} times the student's multiply-adds; timed are the first trial, which "
        "builds the cache, one of the others, and one without cache",
    )


def _epoch(num_faces: int, cache: Path, *, repetitions: int) -> Row:
    """An epoch by classification and transfer, and one by classification alone."""
    cached = _trainer(trial("cached", num_faces=num_faces, strategy="combined"), cache)
    without = _trainer(trial("cached", num_faces=num_faces, strategy="classification"), cache)
    method = without._method
    assert isinstance(method, LabelledDistillation)
    # Its similarity to the teacher is measured against zeros, so that nothing is looked up.
    method._embedding_2ND = torch.zeros(2, 1, method.target.embedding_dim).expand(2, num_faces, -1)
    for trainer in (cached, without):
        trainer.train_epoch()
    ours, other = in_turns(
        lambda: seconds(cached.train_epoch), lambda: seconds(without.train_epoch), repetitions=repetitions
    )
    return Row(
        name="cached_epoch",
        what="an epoch with cached embeddings",
        unit="s",
        ours=ours,
        other=other,
        against="an epoch without a teacher",
        goal=Goal(side="at most", bound=1.1),
        note="one thread; both classify, one imitates too",
    )


def _trainer(config: TrialConfig, cache: Path) -> Trainer:
    process = Process.current()
    return Trainer(config, frozen_parts(config.faces, config.teacher, process.device), process, cache=cache)


def _times_as_dear() -> float:
    config = trial("cached", num_faces=128)
    student = static_efficiency_of(config.student, embedding_dim=config.student_dim(), size_px=SIZE_PX)
    teacher = config.teacher.load()
    macs = "efficiency/macs"
    return teacher_efficiency(teacher, size_px=SIZE_PX)[macs] / student[macs]
