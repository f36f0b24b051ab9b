"""The teacher's embeddings are made once for a home: trials, studies and workers all find them there."""

import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from distill.embedding_cache import PART_IMAGES
from tests.end_to_end.machine import Machine

pytestmark = pytest.mark.slow

SPACE = """
name: cached
objectives: [{{metric: validation/verification_accuracy, direction: maximize}}]
base:
  faces:
    name: files
    size_px: 16
    training: [{{path: {faces}}}]
    benchmark: {{path: {faces}, pairs: {pairs}}}
  method: {{name: sface, num_classes: 5000, images_per_class: 8, augmentation: {{brightness: 0.2}}}}
  training: {{epochs: 1, faces_per_epoch: 64, batch_size: 32}}
parameters:
  method.augmentation.seen_by: {{type: categorical, choices: [student, both]}}
search: {{sampler: grid, num_trials: 2, seed: 0}}
scheduler: {{name: none}}
"""


NUM_PEOPLE, IMAGES_EACH = 560, 8
"""Some people are held out for validation; the images of the others are in two parts."""


def write_faces(folder: Path) -> None:
    """Noise, which embeds as well as faces do. One image is broken."""
    rng = np.random.default_rng(0)
    for person in range(NUM_PEOPLE):
        (folder / f"{person:03d}").mkdir(parents=True)
        for image in range(IMAGES_EACH):
            pixels = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{person:03d}" / f"{image}.png")
    (folder / "300" / "5.png").write_bytes(b"no image")


def write_pairs(file: Path) -> None:
    rows = [f"{p:03d}/0.png,{p + other:03d}/1.png,{1 - other}" for p in range(20) for other in (0, 1)]
    file.write_text("\n".join(["left,right,genuine", *rows]))


def test_a_trial_of_two_workers_finds_what_another_study_cached_in_place(tmp_path: Path) -> None:
    machine, path = Machine(home=tmp_path / "home"), tmp_path / "cached.yaml"
    faces, pairs = tmp_path / "faces", tmp_path / "pairs.csv"
    write_faces(faces)
    write_pairs(pairs)
    path.write_text(SPACE.format(faces=faces, pairs=pairs))
    in_place = machine.run("run", str(path))
    assert in_place.returncode == 0, in_place.stderr
    assert "the teacher's embedding cache is off" in in_place.stdout
    assert "caching the teacher's embeddings: 2/2 parts" in in_place.stdout
    (card,) = (machine.home / "cache" / "embeddings").glob("*/card.json")
    made = card.stat()
    assert PART_IMAGES < json.loads(card.read_text())["num_images"] < 2 * PART_IMAGES

    settings = (
        "method.augmentation.seen_by=student",
        "resources.workers_per_trial=2",
        "search.sampler=random",
    )
    overrides = [argument for setting in settings for argument in ("--set", setting)]
    two_workers = machine.run("run", str(path), "--trials", "1", "--json", *overrides)
    assert two_workers.returncode == 0, two_workers.stderr
    assert [trial["state"] for trial in json.loads(two_workers.stdout)["trials"]] == ["complete"]
    (found,) = (machine.home / "cache" / "embeddings").glob("*/card.json")
    assert (found, found.stat().st_ino, found.stat().st_mtime_ns) == (card, made.st_ino, made.st_mtime_ns)

    client = MlflowClient(tracking_uri=f"sqlite:///{machine.home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("cached")
    assert experiment is not None
    runs = [run.data for run in client.search_runs([experiment.experiment_id])]
    recorded = {
        run.params["method.augmentation.seen_by"]: run.metrics.get("train/teacher_cached")
        for run in runs
        if "trial" in run.tags
    }
    assert recorded == {"student": None, "both": 0.0}
