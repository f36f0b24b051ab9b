"""A home with one small study, made by hand: Optuna's records, MLflow's, and students on disk. No Ray."""

import functools
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import torch
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric

from distill.checkpoint import BEST, save_student
from distill.config import TrialConfig
from distill.training import train
from sweeps.home import Home
from sweeps.provenance import Provenance
from sweeps.space import SearchSpace, parse_space
from sweeps.study import ATTEMPTS, DIRECTORY, EPOCHS, OUTCOME, TEACHER, create_study, run_attribute
from sweeps.tracking import check_tracker

ACCURACY = "validation/verification_accuracy"
SPACE = """
name: tiny
objectives: [{metric: validation/verification_accuracy, direction: maximize}]
base:
  faces: {name: embedded, size_px: 16}
  training: {epochs: 1, faces_per_epoch: 128, batch_size: 32}
parameters:
  optimizer.lr: {type: float, low: 1e-4, high: 1e-1, log: true}
search: {num_trials: 3, seed: 0}
scheduler: {name: none}
"""
RATES = (3e-3, 2e-4, 1e-3)


def copied(root: Path, to: Path) -> Home:
    """A copy of the home that `built` keeps in `root`, to be changed at will, its files in MLflow too."""
    former = built(root).root
    home = Home.at(str(shutil.copytree(former, to)))
    with closing(sqlite3.connect(home.root / "mlflow.db")) as database, database:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(former), str(home.root))
            )
    return home


@functools.cache
def built(root: Path) -> Home:
    """The home: trial 0 was trained, trial 1 has an untrained student, trial 2 failed in its second attempt.

    Made once a process: MLflow takes seconds to make its database, and the trial some to train.
    """
    home = Home.at(str(root / "small_home"))
    home.ensure()
    assert check_tracker(home).ok
    add_study(home, "tiny")
    return home


def add_study(home: Home, name: str, *, size_px: int = 16) -> None:
    """Adds a study of this name."""
    text = SPACE.replace("size_px: 16", f"size_px: {size_px}")
    space = parse_space(text, file="tiny.yaml")
    folder = home.study(name)
    folder.root.mkdir()
    folder.space.write_text(space.to_yaml())
    study = create_study(home, name, space)
    study.set_user_attr(TEACHER, {ACCURACY: 0.93, "validation/eer": 0.07, "efficiency/parameters": 906_640.0})
    recorder = _Recorder(home, name, space)

    reports: list[dict[str, float]] = []
    config = space.config({"optimizer.lr": RATES[0]})
    torch.set_num_threads(1)
    train(config, report=lambda metrics, checkpoint: reports.append(metrics), directory=folder.trial(0))
    best = {key: value for key, value in reports[-1].items() if "/" in key}
    _add_trial(study, space, folder.trial(0), 0, metrics=best)
    recorder.add(study, 0, config, curves={key: [value] for key, value in best.items()}, best=best)

    config = space.config({"optimizer.lr": RATES[1]})
    torch.manual_seed(1)
    save_student(
        config.student.build(embedding_dim=config.student_dim(), size_px=size_px),
        folder.trial(1) / BEST,
        student=config.student,
        embedding_dim=config.student_dim(),
        size_px=size_px,
        epoch=1,
        metrics={},
        teacher_digest=recorder.teacher_digest,
    )
    made_up = {ACCURACY: 0.51, "validation/eer": 0.49, "efficiency/parameters": 217_184.0}
    _add_trial(study, space, folder.trial(1), 1, metrics=made_up)
    curves = {ACCURACY: [0.5, 0.52, 0.51], "train/loss": [1.5, 1.2, 1.0]}
    recorder.add(study, 1, config, curves=curves, best=made_up)

    _add_trial(study, space, folder.trial(2), 2, metrics={}, reason="RuntimeError: the node is gone")
    recorder.add(study, 2, space.config({"optimizer.lr": RATES[2]}), curves={}, best={})


def _add_trial(
    study: optuna.Study,
    space: SearchSpace,
    folder: Path,
    number: int,
    *,
    metrics: Mapping[str, float],
    reason: str | None = None,
) -> None:
    attributes: dict[str, Any] = {
        DIRECTORY: str(folder),
        EPOCHS: 0 if reason else 1,
        OUTCOME: {"reason": reason, "metrics": dict(metrics), "seconds": 2.0},
        ATTEMPTS: ["lost after epoch 0: the node is gone"] if reason else [],
    }
    study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.FAIL if reason else optuna.trial.TrialState.COMPLETE,
            value=None if reason else metrics[ACCURACY],
            params={"optimizer.lr": RATES[number]},
            distributions={
                name: optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)
                for name in space.parameters
            },
            user_attrs=attributes,
        )
    )


class _Recorder:
    """Writes what a sweep would have recorded in MLflow."""

    def __init__(self, home: Home, study: str, space: SearchSpace):
        self._client = MlflowClient(tracking_uri=home.tracking_uri)
        self._study = study
        config = space.config({"optimizer.lr": RATES[0]})
        self.teacher_digest = config.teacher.load().digest
        self._datasets = [
            DatasetInput(
                Dataset(name=context, digest=digest[:36], source_type="generator", source="{}"),
                tags=[InputTag("mlflow.data.context", context)],
            )
            for context, digest in (
                ("training", config.faces.training_digest()),
                ("validation", config.faces.validation_pairs().digest),
            )
        ]
        self._experiment = self._client.create_experiment(study, str(home.artifacts / study))
        here = Provenance.of_this_process()
        run = self._client.create_run(self._experiment, tags={"kind": "sweep", **here.tags()})
        self._parent = run.info.run_id
        self._client.log_text(self._parent, space.to_yaml(), "space.yaml")
        self._client.log_dict(self._parent, here.environment(), "environment.json")

    def add(
        self,
        study: optuna.Study,
        number: int,
        config: TrialConfig,
        *,
        curves: Mapping[str, list[float]],
        best: Mapping[str, float],
    ) -> None:
        tags = {
            "mlflow.parentRunId": self._parent,
            "study": self._study,
            "trial": str(number),
            "teacher_digest": self.teacher_digest,
        }
        run_id = self._client.create_run(self._experiment, tags=tags).info.run_id
        self._client.log_text(run_id, config.model_dump_json(), "config.json")
        self._client.log_inputs(run_id, datasets=self._datasets)
        metrics = [
            Metric(name, value, epoch, epoch)
            for name, values in curves.items()
            for epoch, value in enumerate(values, start=1)
        ]
        metrics += [Metric(f"best/{name}", value, 0, 0) for name, value in best.items()]
        self._client.log_batch(run_id, metrics=metrics)
        study.set_user_attr(run_attribute(number), run_id)
