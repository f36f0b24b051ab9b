"""A study's records: who counts, who is tried again, and what a row says."""

from pathlib import Path

import pytest
from optuna.trial import TrialState

from distill.errors import InputError
from sweeps.home import Home
from sweeps.lineage import Exploit
from sweeps.space import SearchSpace, parse_space
from sweeps.study import (
    ACCUMULATION,
    CONTINUES,
    EPOCHS,
    LINEAGE_ATTRIBUTE,
    OUTCOME,
    create_study,
    fail_orphans,
    load_study,
    num_told,
    read_space,
    run_attribute,
    study_names,
    summary,
    trial_rows,
)

SPACE = """
name: tiny
objectives: [{metric: validation/verification_accuracy, direction: maximize}]
parameters:
  optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
search: {num_trials: 4, seed: 0}
"""


@pytest.fixture
def space() -> SearchSpace:
    return parse_space(SPACE, file="tiny.yaml")


@pytest.fixture
def home(tmp_path: Path, space: SearchSpace) -> Home:
    home = Home.at(str(tmp_path / "home"))
    home.ensure()
    folder = home.study("tiny")
    folder.root.mkdir()
    folder.space.write_text(space.to_yaml())
    return home


def begin(study, space: SearchSpace):
    trial = study.ask()
    space.sample(trial)
    return trial


def test_only_what_ended_by_itself_counts_against_the_budget(home: Home, space: SearchSpace) -> None:
    study = create_study(home, "tiny", space)
    complete, failed, _running = (begin(study, space) for _ in range(3))
    for trial in (complete, failed):
        trial.set_user_attr(OUTCOME, {"reason": None, "metrics": {}, "seconds": 1.0})
    study.tell(complete, 0.9)
    study.tell(failed, state=TrialState.FAIL)
    assert num_told(study) == 2
    fail_orphans(study, retry=False)
    assert num_told(study) == 2


def test_the_point_of_an_orphan_is_tried_again_with_its_checkpoint(home: Home, space: SearchSpace) -> None:
    study = create_study(home, "tiny", space)
    orphan = begin(study, space)
    orphan.set_user_attr(ACCUMULATION, 4)
    assert fail_orphans(study, retry=True) == [orphan.number]
    again = begin(study, space)
    assert again.params == orphan.params
    assert again.user_attrs[ACCUMULATION] == 4
    assert again.user_attrs[CONTINUES] == orphan.number
    assert [row.state for row in trial_rows(study, space)] == ["interrupted", "running"]


def test_a_populations_orphan_goes_on_with_the_settings_that_it_had_last(
    home: Home, space: SearchSpace
) -> None:
    study = create_study(home, "tiny", space)
    orphan = begin(study, space)
    changes = [
        Exploit(trial=0, donor=1, epoch=e, donor_epoch=e, before={}, after={"optimizer.lr": lr})
        for e, lr in ((2, 2e-3), (4, 3e-3))
    ]
    orphan.set_user_attr(LINEAGE_ATTRIBUTE, [change.model_dump(mode="json") for change in changes])
    fail_orphans(study, retry=True)
    assert begin(study, space).params == {"optimizer.lr": 3e-3}


def test_a_queued_point_is_no_trial_yet_and_is_not_queued_twice(home: Home, space: SearchSpace) -> None:
    study = create_study(home, "tiny", space)
    begin(study, space)
    fail_orphans(study, retry=True)
    fail_orphans(study, retry=True)
    assert [row.state for row in trial_rows(study, space)] == ["interrupted"]
    begin(study, space)
    assert [row.state for row in trial_rows(study, space)] == ["interrupted", "running"]


def test_a_row_says_what_the_best_epoch_measured(home: Home, space: SearchSpace) -> None:
    study = create_study(home, "tiny", space)
    trial = begin(study, space)
    metrics = {"validation/verification_accuracy": 0.9, "train/loss": 0.1}
    trial.set_user_attr(EPOCHS, 3)
    trial.set_user_attr(OUTCOME, {"reason": None, "metrics": metrics, "seconds": 2.0})
    study.tell(trial, 0.9)
    study.set_user_attr(run_attribute(0), "abc")
    (row,) = trial_rows(load_study(home, "tiny"), space)
    assert (row.state, row.values, row.metrics, row.epochs, row.run_id) == (
        "complete",
        [0.9],
        metrics,
        3,
        "abc",
    )


def test_a_resumed_study_draws_other_points_than_it_drew_before(home: Home, space: SearchSpace) -> None:
    study = create_study(home, "tiny", space)
    first = [begin(study, space).params for _ in range(2)]
    resumed = load_study(home, "tiny", space)
    assert begin(resumed, space).params not in first


def test_a_study_that_is_not_there_is_named_with_those_that_are(home: Home, space: SearchSpace) -> None:
    create_study(home, "tiny", space)
    assert study_names(home) == ["tiny"]
    with pytest.raises(InputError, match=r"there is no study 'tinny' in .*: it has tiny"):
        load_study(home, "tinny")


def test_the_space_of_a_study_comes_back_as_it_was(home: Home, space: SearchSpace) -> None:
    create_study(home, "tiny", space)
    assert read_space(home, "tiny") == space


def test_a_summary_counts_trials_and_names_the_best(home: Home, space: SearchSpace) -> None:
    study = create_study(home, "tiny", space)
    for value in (0.7, 0.9):
        trial = begin(study, space)
        metrics = {"validation/verification_accuracy": value}
        trial.set_user_attr(OUTCOME, {"reason": None, "metrics": metrics, "seconds": 2.0})
        study.tell(trial, value)
    told = summary(home, "tiny")
    assert (told["state"], told["trials"], told["complete"]) == ("stopped", "2/4", 2)
    assert (told["best"], told["best trial"]) == (0.9, 1)
