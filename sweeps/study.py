"""A study in Optuna's database: what was tried, what came of it, and what is to be tried again."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from distill.errors import InputError, RefusedError
from sweeps.home import Home, masked
from sweeps.leaderboard import TrialRow, best_rows, rank
from sweeps.space import SearchSpace, load_space
from sweeps.storage import open_storage, study_names

optuna.logging.set_verbosity(optuna.logging.WARNING)

# Attributes of an Optuna trial, beside its parameters and values.
DIRECTORY, CONTINUES, EPOCHS, OUTCOME, ATTEMPTS = "directory", "continues", "epochs", "outcome", "attempts"
DRIVEN = "driven_seconds"
"""Of an outcome: for how long the sweep had been driven by then, over all its drivers."""
ACCUMULATION = "accumulation"
"""How many times the config's portions it trains each batch in, where memory ran out."""
POINT, SEED_OFFSET, CONFIRMS = "point", "seed_offset", "confirms"
"""Of a trial that trains a point again: who drew it first, what is added to its seed, and what for."""
LINEAGE_ATTRIBUTE = "lineage"
"""Of a population's trial: every change of whose state it trains, and with what settings."""
WARM_START = "warm_start"
"""Of what was taken over from another study: it is not one of this study's trials."""

# Attributes of an Optuna study.
TEACHER, FINALISTS, ENDED, HANDED_OVER = "teacher", "finalists", "ended", "handed_over"
"""The teacher's metrics; the points that are confirmed; what ended the sweep, in a sentence; the trials whose
students MLflow has."""
INFEASIBLE = "infeasible"


def run_attribute(number: int) -> str:
    """The study's attribute that holds the MLflow run of one trial."""
    return f"run_id/{number}"


def create_study(home: Home, name: str, space: SearchSpace) -> optuna.Study:
    """Makes a new study of this name.

    Raises:
        RefusedError: If the storage holds one for another home.
    """
    try:
        return optuna.create_study(
            storage=open_storage(home), study_name=name, sampler=space.sampler(), directions=space.directions
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise RefusedError(
            f"another home keeps a study {name} in {masked(home.optuna_url)}: choose another --name"
        ) from None


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
        retry: Whether to queue their points again, to continue from their checkpoints: a population's with
            the settings that it last trained with.

    Returns:
        The numbers of the interrupted trials.
    """
    orphans = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for orphan in orphans:
        study.tell(orphan.number, state=TrialState.FAIL)
        if retry:
            again = {
                key: orphan.user_attrs[key]
                for key in (POINT, SEED_OFFSET, CONFIRMS, ACCUMULATION)
                if key in orphan.user_attrs
            }
            lineage = orphan.user_attrs.get(LINEAGE_ATTRIBUTE)
            point = lineage[-1]["after"] if lineage else orphan.params
            study.enqueue_trial(point, user_attrs={CONTINUES: orphan.number, **again})
    return [orphan.number for orphan in orphans]


def was_interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial ended because its sweep did."""
    return trial.state == TrialState.FAIL and OUTCOME not in trial.user_attrs


def point_of(trial: FrozenTrial) -> int:
    """The number of the trial that drew this one's point first: its own unless it trains one again."""
    return trial.user_attrs.get(POINT, trial.number)


def seed_offset_of(trial: FrozenTrial) -> int:
    """What is added to the seed of a trial."""
    return trial.user_attrs.get(SEED_OFFSET, 0)


def own_trials(study: optuna.Study) -> list[FrozenTrial]:
    """A study's trials and queued points, without what it took over from another."""
    return [trial for trial in study.get_trials(deepcopy=False) if WARM_START not in trial.user_attrs]


def num_told(study: optuna.Study) -> int:
    """How many trials ended, and not by an interruption."""
    return sum(trial.state.is_finished() and not was_interrupted(trial) for trial in own_trials(study))


def trial_rows(study: optuna.Study, space: SearchSpace) -> list[TrialRow]:
    """What every trial came to, in the order they were drawn. Queued points are no trials yet."""
    runs = study.user_attrs
    return [
        _row(trial, space, run_id=runs.get(run_attribute(trial.number)))
        for trial in own_trials(study)
        if trial.state != TrialState.WAITING
    ]


def trial_row(study: optuna.Study, space: SearchSpace, number: int) -> TrialRow:
    """What one trial came to, without its run: to find it, all of the study's attributes would be read."""
    return _row(study.get_trials(deepcopy=False)[number], space, run_id=None)


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
        repeats=trial.user_attrs.get(POINT),
        seed_offset=seed_offset_of(trial),
        confirms=trial.user_attrs.get(CONFIRMS, False),
        values=[metrics[name] for name in names] if all(name in metrics for name in names) else None,
        params=dict(trial.params),
        settings=space.settings_of(trial.params),
        metrics=metrics,
        epochs=trial.user_attrs.get(EPOCHS, trial.last_step or 0),
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
    space, study = read_space(home, name), load_study(home, name)
    rows = rank(trial_rows(study, space), space.objectives, space.constraints)
    best = best_rows(rows)
    pid = home.study(name).read_driver_pid()
    told = sum(row.state not in ("running", "interrupted") for row in rows)
    states = {state: sum(row.state == state for row in rows) for state in sorted({row.state for row in rows})}
    entry = {
        "study": name,
        "state": "running" if pid else "finished" if study.user_attrs.get(ENDED) else "stopped",
        "ended": study.user_attrs.get(ENDED),
        "driver": pid,
        "trials": f"{told}/{space.trainings}",
        **states,
        "objective": space.objectives[0].metric,
        "best": best[0].standing.mean[0] if best and best[0].standing else None,
        "best trial": best[0].number if best else None,
    }
    if len(space.objectives) == 1:
        return entry
    front = [row for row in best if row.standing and row.standing.front == 0]
    return entry | {"front": [row.number for row in front]}


def summaries(home: Home) -> list[dict[str, Any]]:
    """How every study of a home stands, oldest first."""
    return [summary(home, name) for name in study_names(home)]


def _require(home: Home, name: str) -> None:
    home.study(name)
    if name not in (names := study_names(home)):
        known = f"it has {', '.join(names)}" if names else "it has none yet"
        raise InputError(f"there is no study {name!r} in {home.address}: {known}")
