"""A study that has ended, made without a sweep: its databases, its runs and its students."""

import json
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch
from mlflow import MlflowClient
from optuna.trial import TrialState

from distill.checkpoint import BEST, save_student
from distill.students import BridgeTinySettings
from sweeps.home import Home
from sweeps.space import SearchSpace, load_space, parse_space
from sweeps.study import EPOCHS, OUTCOME, create_study, load_study, run_attribute

ACCURACY = "validation/verification_accuracy"
STUDY, MODEL, COMMIT = "small", "small-student", "a" * 40
PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
"""Where MLflow's database keeps places of files."""
SPACE = """
name: small
objectives:
  - {metric: validation/verification_accuracy, direction: maximize}
base:
  teacher: {name: embedded}
  method: {name: synthdistill}
  faces: {name: embedded, size_px: 16}
  student: {name: bridge_tiny}
  training: {epochs: 3, faces_per_epoch: 256, batch_size: 64}
parameters:
  optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
search: {sampler: random, num_trials: 3}
promotion:
  model: small-student
  gates: [{metric: benchmark/verification_accuracy, at_least: 0.5}]
"""


@dataclass
class Finished:
    """A home with one study, to which trials are added that a sweep could have run."""

    home: Home
    study: str = STUDY
    client: MlflowClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = MlflowClient(tracking_uri=self.home.tracking_uri)

    @classmethod
    def at(cls, root: Path, space: str = SPACE) -> "Finished":
        """Makes the home, its study and its runs."""
        made = cls(_home(root))
        made.home.ensure()
        parsed = parse_space(space, file="space.yaml")
        folder = made.home.study(STUDY)
        with folder.driven():
            folder.space.write_text(parsed.to_yaml())
            create_study(made.home, STUDY, parsed)
        experiment = made.client.create_experiment(STUDY, artifact_location=str(made.home.artifacts / STUDY))
        tags = {"kind": "sweep", "mlflow.source.git.commit": COMMIT}
        parent = made.client.create_run(experiment, run_name=STUDY, tags=tags)
        made.client.set_terminated(parent.info.run_id)
        return made

    def copied(self, root: Path) -> "Finished":
        """The same in another place, to which the records in the copy lead."""
        shutil.copytree(self.home.root, root)
        with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
            for table, column in PATHS:
                database.execute(
                    f"UPDATE {table} SET {column} = REPLACE({column}, ?, ?)",
                    (f"{self.home.root}/", f"{root}/"),
                )
        return Finished(_home(root))

    @property
    def space(self) -> SearchSpace:
        return load_space(str(self.home.study(STUDY).space))

    def add(
        self,
        values: Mapping[str, float],
        *,
        seed: int | None = 0,
        blind: bool = False,
        state: TrialState = TrialState.COMPLETE,
        run_status: str | None = "FINISHED",
    ) -> int:
        """Adds a trial with these metrics.

        Args:
            seed: Of its student's weights; None leaves it without a student.
            blind: Whether its student takes everybody for the same person.
            run_status: How its run stands; None leaves it without a run.
        """
        study = load_study(self.home, STUDY)
        number = len(study.trials)
        objectives = [objective.metric for objective in self.space.objectives]
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                values=[values[metric] for metric in objectives] if state == TrialState.COMPLETE else None,
                params={"optimizer.lr": 1e-3},
                distributions={"optimizer.lr": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)},
                user_attrs={OUTCOME: {"metrics": dict(values), "seconds": 1.0}, EPOCHS: 3},
            )
        )
        if seed is not None:
            self._save_student(number, seed=seed, blind=blind, metrics=values)
        if run_status is not None:
            study.set_user_attr(run_attribute(number), self._run(number, run_status))
        return number

    def _save_student(self, number: int, *, seed: int, blind: bool, metrics: Mapping[str, float]) -> None:
        torch.manual_seed(seed)
        settings = BridgeTinySettings()
        student = settings.build(embedding_dim=32, size_px=16)
        if blind:
            with torch.no_grad():
                student.get_parameter("fc.weight").zero_()
                student.get_parameter("fc.bias").fill_(1)
        save_student(
            student,
            self.home.study(STUDY).trial(number) / BEST,
            student=settings,
            embedding_dim=32,
            size_px=16,
            epoch=3,
            metrics=dict(metrics),
            teacher_digest="b" * 64,
        )

    def state(self) -> list[Any]:
        """All that a refusal must not change: registry, runs and files."""
        registered = {
            model.name: (model.aliases, [dict(version.tags) for version in self._versions(model.name)])
            for model in self.client.search_registered_models()
        }
        (experiment,) = (e for e in self.client.search_experiments() if e.name == STUDY)
        runs = {
            run.info.run_id: (run.info.status, run.info.end_time, run.data.metrics, run.data.tags)
            for run in self.client.search_runs([experiment.experiment_id])
        }
        logged = [model.model_id for model in self.client.search_logged_models([experiment.experiment_id])]
        files = sorted(
            (str(path), path.stat().st_size)
            for path in self.home.root.rglob("*")
            if path.is_file() and not path.name.endswith((".db", ".db-wal", ".db-shm", ".db-journal"))
        )
        return json.loads(json.dumps([registered, runs, logged, files], default=str))

    def _versions(self, model: str) -> list[Any]:
        return list(self.client.search_model_versions(f"name='{model}'"))

    def _run(self, number: int, status: str) -> str:
        experiment = self.client.get_experiment_by_name(STUDY)
        assert experiment is not None
        (parent,) = self.client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")
        tags = {"mlflow.parentRunId": parent.info.run_id, "study": STUDY, "trial": str(number)}
        run = self.client.create_run(experiment.experiment_id, run_name=f"{number:03d}", tags=tags)
        if status != "RUNNING":
            self.client.set_terminated(run.info.run_id, status=status)
        return run.info.run_id


def _home(root: Path) -> Home:
    """A home with its own records, wherever MLflow's environment leads by now."""
    return Home.at(str(root), f"sqlite:///{root / 'mlflow.db'}")
