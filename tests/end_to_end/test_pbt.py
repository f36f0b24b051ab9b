"""A population on a real Tune: the worst go on from the best, and it is known who from whom."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.checkpoint import BEST, LAST, read_card
from sweeps import cluster
from sweeps.lineage import Exploit, read_lineage
from sweeps.schedulers import make_scheduler
from sweeps.space import SearchSpace, parse_space
from sweeps.task import TrialTask
from sweeps.trial import trainable

# isort: split
import ray
import ray.tune
from ray.tune.search import Searcher

pytestmark = pytest.mark.slow

SPACE = """
name: population
objectives: [{metric: validation/teacher_similarity, direction: maximize}]
base:
  faces: {name: embedded, size_px: 16}
  training: {epochs: 3, faces_per_epoch: 2048, batch_size: 64}
  schedule: {name: constant}
parameters:
  optimizer.lr: {type: float, low: 1e-9, high: 1e-2, log: true}
  optimizer.weight_decay: {type: float, low: 0.01, high: 0.1}
search: {sampler: random, num_trials: 2}
scheduler: {name: pbt, perturb_epochs: 1}
resources: {cpus_per_worker: 1}
"""
GOOD, HOPELESS = (
    {"optimizer.lr": 5e-3, "optimizer.weight_decay": 0.02},
    {"optimizer.lr": 2e-9, "optimizer.weight_decay": 0.1},
)


class Points(Searcher):
    """Hands out tasks as a sweep's searcher does, of points that are given."""

    def __init__(self, space: SearchSpace, points: list[dict[str, Any]], folder: Path):
        super().__init__()
        self._tasks: list[TrialTask] = [
            {
                "number": number,
                "config": space.config(point).model_dump(mode="json"),
                "directory": str(folder / f"{number}"),
                "continue_from": None,
                "told_epochs": 0,
                "accumulation": 1,
                "timeout_s": None,
                "spared": False,
                "point": point,
            }
            for number, point in enumerate(points)
        ]

    def suggest(self, trial_id: str) -> Any:
        return self._tasks.pop(0) if self._tasks else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class Population:
    """A population that has been trained: what was reported, and what became of whom."""

    def __init__(self, folder: Path, points: list[dict[str, Any]], *, cpus: float):
        text = SPACE.replace("num_trials: 2", f"num_trials: {len(points)}")
        space = parse_space(text.replace("cpus_per_worker: 1", f"cpus_per_worker: {cpus}"), file="space.yaml")
        self.folder, self.told = folder, list[Exploit]()
        self.reports: dict[int, list[tuple[int, dict[str, Any], dict[str, float]]]] = {}
        storage = str(folder / "tune")
        random.seed(0)  # Tune's
        self.results = ray.tune.Tuner(
            trainable(space.resources, storage_path=storage, share_epochs=space.scheduler.perturb_epochs),
            tune_config=ray.tune.TuneConfig(
                search_alg=Points(space, points, folder),
                scheduler=make_scheduler(space, on_exploit=self.told.append),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=ray.tune.RunConfig(
                name="trials",
                storage_path=storage,
                verbose=0,
                callbacks=[Watch(self.reports)],
                checkpoint_config=ray.tune.CheckpointConfig(num_to_keep=3),
            ),
        ).fit()


class Watch(ray.tune.Callback):
    """Remembers what was reported: the epoch, the point that the trial then had, and the metrics."""

    def __init__(self, reports: dict[int, list[tuple[int, dict[str, Any], dict[str, float]]]]):
        self._reports = reports

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        # Of the actor that trained: the trial's own may be that of the next epoch already.
        point = result["config"]["point"]
        self._reports.setdefault(trial.config["number"], []).append((int(result["epoch"]), point, result))


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Iterator[None]:
    with cluster.connected(None):
        yield


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Population:
    """A good trial and a hopeless one, side by side."""
    return Population(tmp_path_factory.mktemp("population"), [GOOD, HOPELESS], cpus=1)


def test_the_hopeless_trial_goes_on_from_the_good_one(population: Population) -> None:
    assert not population.results.errors
    lineage = read_lineage(population.folder / "1")
    assert lineage
    assert population.told == lineage
    assert {(exploit.trial, exploit.donor) for exploit in lineage} == {(1, 0)}
    assert lineage[0].before == HOPELESS
    assert read_lineage(population.folder / "0") == []


def test_what_it_inherits_is_the_donors_point_changed(population: Population) -> None:
    first = read_lineage(population.folder / "1")[0]
    for name, value in first.after.items():
        assert value != first.before[name]
    assert 1e-9 <= float(first.after["optimizer.lr"]) <= 1e-2
    assert 0.01 <= float(first.after["optimizer.weight_decay"]) <= 0.1


def test_its_student_starts_from_the_donors(population: Population) -> None:
    """The good trial's lr is a million times the hopeless one's: where it starts tells whose it is."""
    first = read_lineage(population.folder / "1")[0]
    similarity = "validation/teacher_similarity"
    untrained = population.reports[1][0][2][similarity]
    donated = next(r for epoch, _, r in population.reports[0] if epoch == first.donor_epoch)[similarity]
    epoch, _, after = next(report for report in population.reports[1] if report[1] != HOPELESS)
    assert epoch == first.donor_epoch + 1
    assert after[similarity] > untrained + 0.1
    assert abs(after[similarity] - donated) < 0.5 * abs(after[similarity] - untrained)


def test_it_steps_as_its_new_point_says(population: Population) -> None:
    last = read_lineage(population.folder / "1")[-1]
    state = torch.load(population.folder / "1" / LAST, weights_only=True)
    (group,) = state["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(last.after["optimizer.lr"])
    assert group["weight_decay"] == pytest.approx(last.after["optimizer.weight_decay"])


def test_every_trial_comes_to_its_last_epoch_and_keeps_its_own_best_student(population: Population) -> None:
    for number, reports in population.reports.items():
        assert reports[-1][0] == 3
        best = max((result for _, _, result in reports), key=lambda r: r["validation/teacher_similarity"])
        card = read_card(population.folder / f"{number}" / BEST)
        assert card.epoch == int(best["epoch"])
        assert card.metrics["validation/teacher_similarity"] == best["validation/teacher_similarity"]


def test_trials_that_take_turns_are_one_population(tmp_path: Path) -> None:
    population = Population(tmp_path, [HOPELESS, GOOD], cpus=2)
    assert not population.results.errors
    assert [population.reports[number][-1][0] for number in (0, 1)] == [3, 3]
    exploits = read_lineage(tmp_path / "0")
    assert exploits
    # The donor's state is of its last turn: the trial trains the epoch since again.
    assert all(exploit.donor_epoch in (exploit.epoch - 1, exploit.epoch) for exploit in exploits)
