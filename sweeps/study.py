"""A study in Optuna's database: what was tried, what came of it, and what is to be tried again."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from distill.errors import InputError
from sweeps.home import Home
from sweeps.leaderboard import TrialRow, rank
from sweeps.space import SearchSpace, load_space

optuna.logging.set_verbosity(optuna.logging.WARNING)

# Attributes of an Optuna trial, beside its parameters and values.
DIRECTORY, CONTINUES, EPOCHS, OUTCOME = "directory", "continues", "epochs", "outcome"

TEACHER = "teacher"
"""The study's attribute that holds the teacher's metrics."""
INFEASIBLE = "infeasible"


def run_attribute(number: int) -> str:
    """The study's attribute that holds the MLflow run of one trial."""
    return f"run_id/{number}"


def open_storage(home: Home) -> RDBStorage:
    """Opens the database of all studies, making it on first use."""
    # Several readers (status, dashboard) look on while a driver writes: wait for it, don't fail.
    return RDBStorage(home.optuna_url, engine_kwargs={"connect_args": {"timeout": 30}})


def study_names(home: Home) -> list[str]:
    """Every study of this home, oldest first."""
    if not (home.root / "optuna.db").exists():
        return []
    summaries = optuna.get_all_study_summaries(open_storage(home), include_best_trial=False)
    return [summary.study_name for summary in sorted(summaries, key=lambda summary: summary._study_id)]


def create_study(home: Home, name: str, space: SearchSpace) -> optuna.Study:
    """Makes a new study of this name."""
    return optuna.create_study(
        storage=open_storage(home), study_name=name, sampler=space.sampler(), directions=space.directions
    )


def read_space(home: Home, name: str) -> SearchSpace:
    """The resolved space that a study was begun with.

    Raises:
        InputError: If this home has no study of that name.
    """
    _require(home, name)
    return load_space(str(home.study(name).space))


def load_study(home: Home, name: str, space: SearchSpace | None = None) -> optuna.Study:
    """Loads a study; with its space, ready to go on.

    Raises:
        InputError: If this home has no study of that name.
    """
    _require(home, name)
    study = optuna.load_study(study_name=name, storage=open_storage(home))
    if space is not None:
        # A sampler seeded as before would draw again what it drew then.
        study.sampler = space.sampler(num_existing=len(study.get_trials(deepcopy=False)))
    return study


def fail_orphans(study: optuna.Study, *, retry: bool) -> list[int]:
    """Tells Optuna that trials which nothing runs any more have failed.

    Left as running they would push the sampler away from their points for ever. They keep no outcome,
    which is what tells an interrupted trial from one that failed by itself.

    Args:
        retry: Whether to queue their points again, to continue from their checkpoints.

    Returns:
        The numbers of the interrupted trials.
    """
    orphans = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for orphan in orphans:
        study.tell(orphan.number, state=TrialState.FAIL)
        if retry:
            study.enqueue_trial(orphan.params, user_attrs={CONTINUES: orphan.number})
    return [orphan.number for orphan in orphans]


def was_interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial ended because its sweep did."""
    return trial.state == TrialState.FAIL and OUTCOME not in trial.user_attrs


def num_told(study: optuna.Study) -> int:
    """How many trials count against the sweep's budget: those that ended, and not by an interruption."""
    return sum(
        trial.state.is_finished() and not was_interrupted(trial) for trial in study.get_trials(deepcopy=False)
    )


def trial_rows(study: optuna.Study, space: SearchSpace) -> list[TrialRow]:
    """What every trial came to, in the order they were drawn. Queued points are no trials yet."""
    states = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    runs = study.user_attrs
    return [
        _row(trial, space, run_id=runs.get(run_attribute(trial.number)))
        for trial in study.get_trials(deepcopy=False, states=states)
    ]


def _row(trial: FrozenTrial, space: SearchSpace, *, run_id: str | None) -> TrialRow:
    outcome: Mapping[str, Any] = trial.user_attrs.get(OUTCOME, {})
    metrics: dict[str, float] = outcome.get("metrics", {})
    reason: str | None = outcome.get("reason")
    match trial.state:
        case TrialState.COMPLETE:
            state = "complete"
        case TrialState.PRUNED:
            state = INFEASIBLE if reason and reason.startswith(INFEASIBLE) else "pruned"
        case TrialState.FAIL:
            state = "interrupted" if was_interrupted(trial) else "failed"
        case _:
            state = "running"
    names = [objective.metric for objective in space.objectives]
    return TrialRow(
        number=trial.number,
        state=state,
        values=[metrics[name] for name in names] if all(name in metrics for name in names) else None,
        params=dict(trial.params),
        metrics=metrics,
        epochs=trial.user_attrs.get(EPOCHS, 0),
        seconds=outcome.get("seconds", 0.0),
        run_id=run_id,
        reason=reason,
        checkpoint=trial.user_attrs.get(DIRECTORY),
    )


def summary(home: Home, name: str) -> dict[str, Any]:
    """How a study stands: its trials by state, its best value, and what drives it.

    Raises:
        InputError: If this home has no study of that name.
    """
    space = read_space(home, name)
    rows = trial_rows(load_study(home, name), space)
    objective = space.objectives[0]
    best = next(
        (row for row in rank(rows, space.objectives, space.constraints) if row.state == "complete"), None
    )
    pid = home.study(name).read_driver_pid()
    told = sum(row.state not in ("running", "interrupted") for row in rows)
    states = {state: sum(row.state == state for row in rows) for state in sorted({row.state for row in rows})}
    return {
        "study": name,
        "state": "running" if pid else "finished" if told >= space.search.num_trials else "stopped",
        "driver": pid,
        "trials": f"{told}/{space.search.num_trials}",
        **states,
        "objective": objective.metric,
        "best": best.metrics[objective.metric] if best else None,
        "best trial": best.number if best else None,
    }


def summaries(home: Home) -> list[dict[str, Any]]:
    """How every study of a home stands, oldest first."""
    return [summary(home, name) for name in study_names(home)]


def _require(home: Home, name: str) -> None:
    home.study(name)
    if name not in (names := study_names(home)):
        known = f"it has {', '.join(names)}" if names else "it has none yet"
        raise InputError(f"there is no study {name!r} in {home.root}: {known}")
