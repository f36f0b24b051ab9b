"""A budget ends a sweep when it is met, and not before; what former drivers used counts."""

import time

import optuna
import pytest

from sweeps.budget import Budget
from sweeps.space import SearchSpace, parse_space
from sweeps.study import DRIVEN, OUTCOME

METRIC = "validation/verification_accuracy"


def space(budget: str, *, direction: str = "maximize", metric: str = METRIC) -> SearchSpace:
    return parse_space(
        f"""
name: small
objectives: [{{metric: {metric}, direction: {direction}}}]
base: {{faces: {{name: embedded, size_px: 16}}, training: {{epochs: 2}}}}
parameters: {{optimizer.lr: {{type: float, low: 1e-4, high: 1e-1, log: true}}}}
search: {{num_trials: 9}}
scheduler: {{name: none}}
resources: {{workers_per_trial: 2, gpus_per_worker: 1}}
budget: {{{budget}}}
""",
        file="small.yaml",
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in hours."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0] * 3600)
    return now


def test_without_a_budget_nothing_ends() -> None:
    budget = Budget(optuna.create_study(), space(""))
    assert budget.search_is_over() is None
    assert budget.is_used_up() is None


def test_hours_end_everything_and_go_on_counting_where_the_last_driver_left(clock: list[float]) -> None:
    study = optuna.create_study()
    for hours in (0.7, 1.5):  # two trials of the driver before
        trial = study.ask()
        trial.set_user_attr(OUTCOME, {"seconds": 60.0, DRIVEN: hours * 3600})
        study.tell(trial, 0.5)
    budget = Budget(study, space("hours: 2.0"))
    clock[0] += 0.4
    assert budget.is_used_up() is None
    clock[0] += 0.1
    assert budget.is_used_up() == budget.search_is_over() == "budget.hours (2) was used up"
    assert budget.driven_seconds == pytest.approx(2 * 3600)


def test_gpu_hours_count_every_gpu_of_ended_and_running_trials(clock: list[float]) -> None:
    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    trial.set_user_attr(OUTCOME, {"reason": None, "metrics": {}, "seconds": 3600.0})
    study.tell(trial, 0.5)
    budget = Budget(study, space("gpu_hours: 6.0"))
    budget.begin(1)
    clock[0] += 1.0
    assert budget.end(1, None) == pytest.approx(3600.0)
    assert budget.is_used_up() is None
    budget.begin(2)
    clock[0] += 1.0
    assert budget.is_used_up() == "budget.gpu_hours (6) was used up"


@pytest.mark.parametrize(
    ("direction", "metric", "short", "enough"),
    [("maximize", METRIC, 0.89, 0.9), ("minimize", "train/loss", 0.91, 0.9)],
)
def test_a_target_ends_the_search_and_not_what_runs(
    direction: str, metric: str, short: float, enough: float
) -> None:
    budget = Budget(optuna.create_study(), space("target: 0.9", direction=direction, metric=metric))
    for number, value in enumerate([None, short]):
        budget.begin(number)
        budget.end(number, value)
    assert budget.search_is_over() is None
    budget.begin(2)
    budget.end(2, enough)
    assert budget.search_is_over() == "trial 2 reached budget.target (0.9)"
    assert budget.is_used_up() is None


def test_a_target_that_a_former_driver_reached_stays_reached() -> None:
    study = optuna.create_study(direction="maximize")
    study.tell(study.ask(), 0.95)
    assert Budget(study, space("target: 0.9")).search_is_over() == "trial 0 reached budget.target (0.9)"
