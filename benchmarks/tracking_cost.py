"""What a trial takes longer because it is recorded: the same training, with MLflow and without.

The records are sent by a thread of this process, while training has another core. In a sweep the driver sends
them, in a process of its own, so that this is the harder case.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.row import Goal, Row, in_turns, seconds
from distill.config import TrialConfig
from distill.training import train
from sweeps.home import Home
from sweeps.provenance import Provenance
from sweeps.space import parse_space
from sweeps.tracking import Tracker, check_tracker, flatten

NUM_METRICS = 30
SPACE = """
name: tracked
objectives: [{metric: validation/verification_accuracy, direction: maximize}]
base:
  faces: {name: embedded, size_px: 16}
  training: {epochs: 6, faces_per_epoch: 1024, batch_size: 128}
parameters:
  optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
search: {num_trials: 1}
scheduler: {name: none}
"""


def measure(quick: bool) -> list[Row]:
    """One thread."""
    torch.set_num_threads(1)
    space = parse_space(SPACE, file="tracked.yaml", overrides={"training.epochs": "1"} if quick else {})
    with tempfile.TemporaryDirectory() as folder:
        home = Home.at(folder, f"sqlite:///{folder}/mlflow.db", f"sqlite:///{folder}/optuna.db")
        home.ensure()
        check_tracker(home)  # makes the database
        tracker = Tracker(home, study=space.name, on_run=lambda number, run: None)
        tracker.start_sweep(space_yaml=space.to_yaml(), params={}, provenance=Provenance.of_this_process())
        trial = _Trial(space.config(space.first_point()), Path(folder), tracker)
        trial.untracked()  # loads the teacher, renders the faces
        tracked, untracked = in_turns(trial.tracked, trial.untracked, repetitions=1 if quick else 9)
        tracker.finish_sweep(status="FINISHED", metrics={}, leaderboard={})
        tracker.close()
    epochs = trial.config.training.epochs
    return [
        Row(
            name="tracking_cost",
            what="a trial that is recorded",
            unit="s",
            ours=tracked,
            other=untracked,
            against="the same without MLflow",
            goal=Goal(side="at most", bound=1.02),
            note=f"one thread trains; {NUM_METRICS} metrics an epoch of {min(untracked) / epochs:.1f} s, to "
            f"a database; when a trial ended, at most {trial.most_waiting} records were still to be sent",
        )
    ]


class _Trial:
    """One training, again and again."""

    def __init__(self, config: TrialConfig, folder: Path, tracker: Tracker):
        self.config = config
        self.most_waiting = 0
        self._folder, self._tracker = folder, tracker
        self._num_trials = 0

    def untracked(self) -> float:
        return seconds(lambda: self._train(lambda metrics: None))

    def tracked(self) -> float:
        """Seconds until the trial has ended, with its beginning and its end recorded too."""
        number, self._num_trials = self._num_trials, self._num_trials + 1
        taken = seconds(lambda: self._train_recorded(number))
        self.most_waiting = max(self.most_waiting, self._tracker.num_waiting)
        while self._tracker.num_waiting:  # lest they burden the trial that comes next
            time.sleep(0.05)
        return taken

    def _train_recorded(self, number: int) -> None:
        tracker, config = self._tracker, self.config
        tracker.start_trial(
            number,
            name=f"trial {number}",
            params=flatten(config.model_dump(mode="json")),
            tags={},
            datasets=list,
            config_json=config.model_dump_json(indent=2),
        )
        last: dict[str, float] = {}

        def record(metrics: dict[str, float]) -> None:
            further = {f"further/{index}": float(index) for index in range(NUM_METRICS)}
            named = {name: value for name, value in metrics.items() if "/" in name}
            last.update(dict(list({**named, **further}.items())[:NUM_METRICS]))
            tracker.log_epoch(number, epoch=int(metrics["epoch"]), metrics=last)

        self._train(record)
        tracker.finish_trial(number, state="complete", best=last)

    def _train(self, record: Callable[[dict[str, float]], None]) -> None:
        with tempfile.TemporaryDirectory(dir=self._folder) as directory:
            train(
                self.config,
                report=lambda metrics, checkpoint: record(metrics),
                directory=Path(directory),
            )
