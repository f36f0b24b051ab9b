"""What an epoch costs whose teacher is cached, against one that needs no teacher, and one that asks it.

Three trainings of one student on one labelled set take turns, an epoch each: by classification alone, with no
teacher at all; by classification and transfer, with the teacher's embeddings mapped from a file; and by both,
with the teacher embedding every batch. Run it with nothing else on the machine:

    python -m benchmarks.cached_epoch [--threads 2] [--repeats 25] [--json]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from distill.config import TrialConfig
from distill.methods import LabelledDistillation
from distill.training import Process
from distill.training.loop import Trainer
from distill.training.parts import frozen_parts

NO_TEACHER, CACHED, ASKED = "no teacher", "cached", "asked"
AUGMENTATION = {"brightness": 0.1}
"""What every student sees, so that the three differ in nothing but what the teacher has to do."""


def trial(strategy: str, *, seen_by: str = "student") -> TrialConfig:
    """A student of 32 px on 4,096 faces, of which it sees 1,024 in an epoch.

    Turns are short, so that what else the machine does meets all three alike.
    """
    settings: dict[str, Any] = {
        "faces": {"name": "embedded", "size_px": 32},
        "student": {"name": "iresnet_small"},
        "method": {
            "name": "sface",
            "strategy": strategy,
            "num_classes": 512,
            "images_per_class": 8,
            "augmentation": {**AUGMENTATION, "seen_by": seen_by},
        },
        "training": {"epochs": 1000, "faces_per_epoch": 1024, "batch_size": 128},
        "optimizer": {"lr": 1e-3},
    }
    return TrialConfig.model_validate(settings)


def trainer(config: TrialConfig, cache: Path) -> Trainer:
    process = Process.current()
    return Trainer(config, frozen_parts(config.faces, config.teacher, process.device), process, cache=cache)


def without_teacher(cache: Path) -> Trainer:
    """Classification that looks nothing up: its similarity to the teacher is measured against zeros."""
    made = trainer(trial("classification"), cache)
    method = made._method
    assert isinstance(method, LabelledDistillation)
    num_images, width = len(method._faces), method.target.embedding_dim
    method._embedding_2ND = torch.zeros(2, 1, width).expand(2, num_images, width)
    return made


def seconds(made: Trainer) -> float:
    began = time.perf_counter()
    made.train_epoch()
    return time.perf_counter() - began


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of each epoch, by kind; the kinds take turns, after an epoch each to warm up."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        kinds = {
            NO_TEACHER: without_teacher(cache),
            CACHED: trainer(trial("combined"), cache),
            ASKED: trainer(trial("combined", seen_by="both"), cache),
        }
        for made in kinds.values():
            made.train_epoch()
        turns = [list(kinds.items())[:: 1 - 2 * (turn % 2)] for turn in range(repeats)]  # there and back
        epochs = [{kind: seconds(made) for kind, made in turn} for turn in turns]
    return {kind: [epoch[kind] for epoch in epochs] for kind in kinds}


def ratio(taken: dict[str, list[float]], kind: str) -> tuple[float, float, float]:
    """Median and quartiles of an epoch's seconds over those of its neighbour without a teacher."""
    ratios = [one / other for one, other in zip(taken[kind], taken[NO_TEACHER], strict=True)]
    lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    return median, lower, upper


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    taken = measure(arguments.repeats)
    document = {
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "median_seconds": {kind: statistics.median(epochs) for kind, epochs in taken.items()},
        "ratio_median_and_quartiles": {kind: ratio(taken, kind) for kind in (CACHED, ASKED)},
    }
    if arguments.json:
        print(json.dumps(document))
        return
    for kind, epochs in taken.items():
        print(f"{kind:<10}  {statistics.median(epochs):6.3f} s an epoch")
    for kind in (CACHED, ASKED):
        median, lower, upper = ratio(taken, kind)
        print(
            f"{kind:<10}  {median:6.3f} times an epoch without teacher (quartiles {lower:.3f} to {upper:.3f})"
        )


if __name__ == "__main__":
    main()
