"""What comes next in a study: points, further seeds of those that complete, finalists; each once."""

import optuna
import pytest
from optuna.trial import TrialState

from sweeps.agenda import Agenda
from sweeps.space import SearchSpace, parse_space
from sweeps.study import CONFIRMS, OUTCOME, POINT, SEED_OFFSET, fail_orphans

METRIC = "validation/verification_accuracy"


def space(search: str, *, confirm: str = "") -> SearchSpace:
    return parse_space(
        f"""
name: small
objectives: [{{metric: {METRIC}, direction: maximize}}]
base: {{faces: {{name: embedded, size_px: 16}}, training: {{epochs: 2}}}}
parameters: {{optimizer.lr: {{type: float, low: 1e-4, high: 1e-1, log: true}}}}
search: {{sampler: random, {search}}}
scheduler: {{name: none}}
{confirm}
""",
        file="small.yaml",
    )


class Driver:
    """Does what a sweep does, without training: asks while it may, and tells what it is told to."""

    def __init__(self, of: SearchSpace):
        self.space = of
        self.study = optuna.create_study(direction="maximize", sampler=of.sampler())
        self.agenda = Agenda(study=self.study, space=of)

    def ask(self) -> optuna.Trial:
        assert self.agenda.next(searches=True) == "train"
        trial = self.study.ask()
        self.space.sample(trial)
        return trial

    def tell(self, trial: optuna.Trial, value: float | None) -> None:
        metrics = {} if value is None else {METRIC: value}
        trial.set_user_attr(OUTCOME, {"reason": None, "metrics": metrics, "seconds": 1.0})
        self.study.tell(trial, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)

    def run(self, worth: dict[int, float], *, otherwise: float = 0.5) -> list[tuple[int, int]]:
        """Trains to the end; returns the point and the seed of each trial."""
        done = []
        while (now := self.agenda.next(searches=True)) == "train":
            trial = self.ask()
            point = trial.user_attrs.get(POINT, trial.number)
            done.append((point, trial.user_attrs.get(SEED_OFFSET, 0)))
            self.tell(trial, worth.get(point, otherwise))
        assert now == "finished"
        return done


def test_a_plain_search_draws_as_many_points_as_it_may() -> None:
    assert Driver(space("num_trials: 3")).run({}) == [(0, 0), (1, 0), (2, 0)]


def test_a_point_that_completes_is_trained_with_every_seed() -> None:
    done = Driver(space("num_trials: 2, repeats: 3")).run({})
    assert sorted(done) == [(0, 0), (0, 1), (0, 2), (3, 0), (3, 1), (3, 2)]


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAIL])
def test_a_point_that_does_not_complete_is_not_trained_again(state: TrialState) -> None:
    driver = Driver(space("num_trials: 1, repeats: 3"))
    trial = driver.ask()
    trial.set_user_attr(OUTCOME, {"reason": "why", "metrics": {}, "seconds": 1.0})
    driver.study.tell(trial, state=state)
    assert driver.agenda.next(searches=True) == "finished"


def test_further_seeds_train_the_same_point() -> None:
    driver = Driver(space("num_trials: 1, repeats: 2"))
    driver.run({})
    first, second = driver.study.trials
    assert first.params == second.params
    config = driver.space.config(second.params, seed_offset=second.user_attrs[SEED_OFFSET])
    assert config.seed == driver.space.config(first.params).seed + 1


def test_the_best_points_are_confirmed_with_seeds_of_their_own_once_the_search_is_over() -> None:
    driver = Driver(space("num_trials: 4, repeats: 1", confirm="confirm: {top: 2, seeds: 2}"))
    done = driver.run({1: 0.9, 3: 0.8})
    assert done[:4] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert sorted(done[4:]) == [(1, 1), (1, 2), (3, 1), (3, 2)]
    assert [t.user_attrs.get(CONFIRMS, False) for t in driver.study.trials] == [False] * 4 + [True] * 4


def test_confirming_seeds_are_none_that_the_search_has_used() -> None:
    done = Driver(space("num_trials: 1, repeats: 2", confirm="confirm: {top: 1, seeds: 2}")).run({})
    assert sorted(done) == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_finalists_wait_for_the_last_running_trial() -> None:
    driver = Driver(space("num_trials: 2", confirm="confirm: {top: 1, seeds: 1}"))
    first, second = driver.ask(), driver.ask()
    driver.tell(first, 0.5)
    assert driver.agenda.next(searches=True) == "wait"
    driver.tell(second, 0.9)
    assert driver.ask().user_attrs[POINT] == 1


def test_a_search_that_is_over_draws_no_point_and_confirms_what_it_has() -> None:
    driver = Driver(space("num_trials: 5", confirm="confirm: {top: 1, seeds: 1}"))
    driver.tell(driver.ask(), 0.5)
    assert driver.agenda.next(searches=False) == "train"
    assert driver.study.ask().user_attrs[CONFIRMS]


@pytest.mark.parametrize("killed_after", range(1, 8))
def test_a_driver_that_dies_at_any_time_leaves_nothing_out_and_nothing_twice(killed_after: int) -> None:
    driver = Driver(space("num_trials: 2, repeats: 2", confirm="confirm: {top: 1, seeds: 2}"))
    for _ in range(killed_after - 1):
        if driver.agenda.next(searches=True) == "train":
            driver.tell(driver.ask(), 0.5)
    if driver.agenda.next(searches=True) == "train":
        driver.ask()  # and dies
    fail_orphans(driver.study, retry=True)
    driver.run({})
    told = [t for t in driver.study.trials if OUTCOME in t.user_attrs]
    trained = [(t.user_attrs.get(POINT, t.number), t.user_attrs.get(SEED_OFFSET, 0)) for t in told]
    assert len(set(trained)) == len(trained) == 6
    assert len({point for point, _ in trained}) == 2
