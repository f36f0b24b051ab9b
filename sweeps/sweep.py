"""A sweep from its first check to its last line: the one place where everything meets."""

import itertools
import math
import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from sweeps import cluster  # before anything that imports ray: it sets what Ray reads when it is imported

# isort: split
import optuna
import ray.tune
from ray.tune import Stopper

from distill.errors import InputError, RefusedError
from distill.evaluation import evaluate_pairs, teacher_efficiency
from distill.teachers import Teacher
from sweeps.budget import Budget
from sweeps.caching import build_caches, cache_folder, tell_of_damage
from sweeps.failures import disk_is_full
from sweeps.home import Home, StudyFolder, masked
from sweeps.leaderboard import TrialRow, as_csv, as_html, as_markdown, best_rows, rank
from sweeps.ledger import Ledger
from sweeps.nodes import check_shared_home
from sweeps.placement import max_concurrent, place
from sweeps.planning import disk_of
from sweeps.preflight import check_disk, checked, require
from sweeps.promotion import Promotion, promote
from sweeps.provenance import Provenance
from sweeps.schedulers import make_scheduler
from sweeps.search import StudySearcher
from sweeps.space import ResourcesSettings, SearchSpace
from sweeps.storage import check_storage, recorded_names
from sweeps.study import (
    ENDED,
    HANDED_OVER,
    TEACHER,
    create_study,
    fail_orphans,
    load_study,
    num_told,
    read_space,
    trial_rows,
)
from sweeps.terminal import SweepDisplay
from sweeps.tracking import Tracker, check_tracker, flatten
from sweeps.trial import trainable
from sweeps.warm_start import require_alike, warm_start

DESCRIBED = 20
"""Trials on the page that MLflow shows of a sweep."""
RECOUNT_S = 5.0
"""How long a count of what the cluster holds is taken for true."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        name: Of its study.
        rows: Every trial, best first.
        teacher: The teacher's metrics on the validation pairs, for comparison.
        interrupted: Whether it was stopped before its end.
        ended: What ended it, in a sentence; None when it was interrupted.
        promotion: What was promoted; None when nothing was.
        refusal: Why the best student was not promoted, where that was asked for.
        num_waiting: Records that did not reach the tracker, and wait for the study's next driver.
        page: Where MLflow shows its trials, below its address; None where it has not heard of them.
    """

    name: str
    rows: list[TrialRow]
    teacher: dict[str, float]
    interrupted: bool
    ended: str | None
    promotion: Promotion | None
    refusal: str | None
    num_waiting: int
    page: str | None
    seconds: float


def run_sweep(
    space: SearchSpace, *, home: Home, name: str | None, address: str | None, display: SweepDisplay
) -> SweepResult:
    """Runs a new sweep.

    Args:
        name: Of the study; None takes the space's name, numbered where that is taken.
        address: Of a Ray cluster; None starts one on this machine.

    Raises:
        InputError: If the name or the teacher is wrong. Nothing was written.
        RefusedError: If a preflight check refuses. Nothing was written.
    """
    folder = home.study(name or _free_name(home, space.name))
    if _is_taken(folder, recorded_names(home)):
        raise RefusedError(
            f"there is a study {folder.name} in {home.address} already: choose another --name, or go on with "
            f"it by `sweeps resume {folder.name}`"
        )
    return _drive(space, home=home, folder=folder, address=address, display=display, resume=False)


def resume_sweep(name: str, *, home: Home, address: str | None, display: SweepDisplay) -> SweepResult:
    """Goes on with a study where its last driver left it.

    Trials that were running then are told as interrupted, and their points are tried again from their
    checkpoints.

    Raises:
        InputError: If there is no such study.
        RefusedError: If another driver holds it, or a preflight check refuses.
    """
    space = read_space(home, name)
    return _drive(space, home=home, folder=home.study(name), address=address, display=display, resume=True)


def _drive(
    space: SearchSpace,
    *,
    home: Home,
    folder: StudyFolder,
    address: str | None,
    display: SweepDisplay,
    resume: bool,
) -> SweepResult:
    began = time.monotonic()
    if not resume:
        require_alike(space, home=home)
    teacher = checked(space.config(space.first_point()))
    with ExitStack() as stack:
        if resume:
            stack.enter_context(folder.driven())
        require(cluster.check_installation(), cluster.check_home(home), check_storage(home))
        dashboard_url = stack.enter_context(cluster.connected(address))
        interrupts = _Interrupts(display)
        stack.enter_context(interrupts.heard())  # after Ray, which takes SIGTERM for itself
        nodes = cluster.nodes()
        require(
            cluster.check_dashboard(dashboard_url),
            cluster.check_resources(space.resources, nodes),
            check_shared_home(home, nodes),
            check_disk(home, disk_of(space, at_once=place(space.resources, nodes).trials, home=home).total),
        )
        home.ensure()
        if not resume:  # until here, nothing of a new study was written
            stack.enter_context(folder.driven())
        display.log_to(folder.log)
        require(check_tracker(home))
        study = _open_study(space, home, folder, display=display, resume=resume)
        sweep = _Sweep(space, study=study, home=home, folder=folder, teacher=teacher, display=display)
        return sweep.run(began, resume=resume, interrupts=interrupts)


class _Sweep:
    """One driver's part in a study."""

    def __init__(
        self,
        space: SearchSpace,
        *,
        study: optuna.Study,
        home: Home,
        folder: StudyFolder,
        teacher: Teacher,
        display: SweepDisplay,
    ):
        self._space = space
        self._study = study
        self._home = home
        self._folder = folder
        self._teacher = teacher
        self._display = display
        self._config = space.config(space.first_point())
        self._budget = Budget(study, space)
        self._tracker = Tracker(home, study=folder.name, on_run=lambda *run: self._ledger.note_run(*run))
        self._ledger = Ledger(
            study, space, folder=folder, tracker=self._tracker, display=display, budget=self._budget
        )

    def run(self, began: float, *, resume: bool, interrupts: "_Interrupts") -> SweepResult:
        """Searches until the budget is told, or until it is interrupted."""
        self._tracker.start_sweep(
            space_yaml=self._space.to_yaml(),
            params=flatten(
                {"search": self._space.search.model_dump(), "resources": self._space.resources.model_dump()}
            ),
            provenance=Provenance.of_this_process(),
        )
        if resume:
            self._ledger.reconcile()
        concurrent = max_concurrent(self._space.resources, cluster.nodes())
        self._display.started(
            name=self._folder.name,
            num_trials=self._space.trainings,
            num_done=num_told(self._study),
            concurrent=concurrent,
            tracking_uri=masked(self._home.tracking_uri),
            home=self._home.address,
        )
        interrupted = False
        try:
            build_caches(self._space, home=self._home, concurrent=concurrent, display=self._display)
            self._fit(concurrent)
            interrupts.search_is_over = True
        except KeyboardInterrupt:
            interrupted = True
        except InputError:  # no trial could do without
            self._tracker.finish_sweep(status="FAILED", metrics={}, leaderboard={})
            self._tracker.close()
            raise
        except Exception as error:
            # Where a trial found the disk full, Tune may stumble over what it could not write whole.
            if self._ledger.disk_full is None and not disk_is_full(error, self._home.root):
                raise
            raise self._disk_full(self._ledger.disk_full or str(error)) from error
        if self._ledger.disk_full:
            raise self._disk_full(self._ledger.disk_full)
        if ended := self._budget.is_used_up():
            self._ledger.close_all(ended)
        tell_of_damage(self._home, self._display)
        for number in fail_orphans(self._study, retry=True):
            interrupted = True
            self._tracker.finish_trial(number, state="interrupted", best={})
        rows = rank(trial_rows(self._study, self._space), self._space.objectives, self._space.constraints)
        teacher = self._teacher_metrics()
        self._study.set_user_attr(TEACHER, teacher)
        ended = None if interrupted else self._what_ended_it()
        self._study.set_user_attr(ENDED, ended)
        self._hand_over_students(rows)
        self._describe(rows, teacher)
        self._tracker.finish_sweep(
            status="KILLED" if interrupted else "FINISHED",
            metrics=self._summary(rows, teacher),
            leaderboard={
                "leaderboard.csv": as_csv(rows, self._space.objectives),
                "leaderboard.md": as_markdown(rows, self._space.objectives, teacher=teacher),
                "leaderboard.html": as_html(rows, self._space.objectives, teacher=teacher),
            },
        )
        self._tracker.close()
        rows = rank(trial_rows(self._study, self._space), self._space.objectives, self._space.constraints)
        promotion, refusal = (None, None) if interrupted else self._promote()
        return SweepResult(
            name=self._folder.name,
            rows=rows,
            teacher=teacher,
            interrupted=interrupted,
            ended=ended,
            promotion=promotion,
            refusal=refusal,
            num_waiting=self._tracker.num_waiting,
            page=self._tracker.page,
            seconds=time.monotonic() - began,
        )

    def _fit(self, concurrent: int) -> None:
        depot, notes = self._folder.depot, self._folder.tune
        storage = str(notes) if depot is None else depot.uri_of(notes)
        is_population = self._space.scheduler.name == "pbt"
        ray.tune.Tuner(
            trainable(
                self._space.resources,
                storage_path=storage,
                cache=cache_folder(self._home),
                depot=depot,
                share_epochs=self._space.scheduler.perturb_epochs if is_population else None,
            ),
            tune_config=ray.tune.TuneConfig(
                search_alg=StudySearcher(
                    self._study,
                    self._space,
                    folder=self._folder,
                    ledger=self._ledger,
                    budget=self._budget,
                    # All of a population are begun, and take turns where there is not room for all.
                    room=(lambda: math.inf)
                    if is_population
                    else _Room(self._space.resources, concurrent, self._display),
                ),
                scheduler=make_scheduler(self._space, on_exploit=self._ledger.note_exploit),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}-{trial.trial_id}",
            ),
            run_config=ray.tune.RunConfig(
                name="trials",
                storage_path=storage,
                callbacks=[self._ledger],
                checkpoint_config=ray.tune.CheckpointConfig(num_to_keep=3),
                stop=_Stop(self._budget, self._ledger),
                verbose=0,
            ),
        ).fit()

    def _what_ended_it(self) -> str:
        if ended := self._budget.search_is_over():
            return ended
        return f"all {self._space.search.num_trials} points were tried"

    def _describe(self, rows: list[TrialRow], teacher: dict[str, float]) -> None:
        """Tags the trials of the front, and puts the best on the sweep's page."""
        if len(self._space.objectives) > 1:
            for row in best_rows(rows):
                on_front = row.standing is not None and row.standing.front == 0
                self._tracker.tag_trial(row.number, pareto=str(on_front).lower())
        table = as_markdown(rows, self._space.objectives, teacher=teacher, limit=DESCRIBED)
        self._tracker.describe_sweep(f"{self._space.description}\n\n{table}".strip())

    def _hand_over_students(self, rows: list[TrialRow]) -> None:
        """Gives MLflow the students of the best trials, each once."""
        before: list[int] = self._study.user_attrs.get(HANDED_OVER, [])
        best = [row.number for row in rows if row.state == "complete" and row.number not in before]
        kept = {number: folder for number in best if (folder := self._ledger.student(number))}
        for number, folder in kept.items():
            self._tracker.log_student(number, folder)
        self._study.set_user_attr(HANDED_OVER, [*before, *kept])

    def _disk_full(self, reason: str) -> RefusedError:
        """What is said when nothing can be written any more. What was recorded stays as it is."""
        return RefusedError(
            f"the disk of {self._home.root} is full ({reason}): make room, then go on with "
            f"`sweeps resume {self._folder.name}`"
        )

    def _teacher_metrics(self) -> dict[str, float]:
        metrics = evaluate_pairs(self._teacher, self._config.faces.validation_pairs(), prefix="validation")
        return metrics | teacher_efficiency(self._teacher, size_px=self._config.faces.size_px)

    def _summary(self, rows: list[TrialRow], teacher: dict[str, float]) -> dict[str, float]:
        counted = {
            f"trials/{state}": float(sum(row.state == state for row in rows))
            for state in {r.state for r in rows}
        }
        best = next((row.metrics for row in rows if row.state == "complete"), {})
        return {
            **counted,
            **{f"best/{name}": value for name, value in best.items()},
            **{f"teacher/{name}": value for name, value in teacher.items()},
        }

    def _promote(self) -> tuple[Promotion | None, str | None]:
        if self._space.promotion is None or not self._space.promotion.automatic:
            return None, None
        try:
            return promote(self._home, self._folder.name), None
        except RefusedError as error:
            return None, str(error)


class _Room:
    """How many trials fit at once on a cluster whose nodes join and leave; one at least, which then waits."""

    def __init__(self, resources: ResourcesSettings, concurrent: int, display: SweepDisplay):
        self._resources = resources
        self._concurrent = concurrent
        self._display = display
        self._counted = time.monotonic()

    def __call__(self) -> int:
        """Counts again when the last count is old."""
        if time.monotonic() - self._counted > RECOUNT_S:
            self._counted = time.monotonic()
            former, self._concurrent = self._concurrent, max_concurrent(self._resources, cluster.nodes())
            if self._concurrent != former:
                self._display.note(f"the cluster's nodes changed: trials at once: {self._concurrent}")
        return max(1, self._concurrent)


class _Stop(Stopper):
    """Tells Tune to end everything, once hours are used up or nothing can be written any more."""

    def __init__(self, budget: Budget, ledger: Ledger):
        self._budget = budget
        self._ledger = ledger

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never: it ends no single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether everything must end."""
        return bool(self._budget.is_used_up() or self._ledger.disk_full)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it is given, to restore it, and a sweep is resumed from its study."""
        return {}


def _open_study(
    space: SearchSpace, home: Home, folder: StudyFolder, *, display: SweepDisplay, resume: bool
) -> optuna.Study:
    if resume:
        study = load_study(home, folder.name, space)
        fail_orphans(study, retry=True)
        return study
    folder.space.write_text(space.to_yaml())
    if folder.depot is not None:
        folder.depot.push(folder.root, folder.is_space)
    study = create_study(home, folder.name, space)
    if space.search.warm_start is not None:
        num_fitting, num_completed = warm_start(study, space, home=home)
        source = f"study {space.search.warm_start}"
        display.note(
            f"learnt from {num_fitting} of the {num_completed} completed trials of {source}, which fit"
        )
    for point in space.search.enqueue:
        study.enqueue_trial(dict(point))
    return study


def _is_taken(folder: StudyFolder, recorded: Collection[str]) -> bool:
    """Whether a study of this name is recorded, is just being begun, or left checkpoints: not so where a
    driver was killed before its study was made."""
    return folder.name in recorded or folder.trials.exists() or folder.read_driver() is not None


def _free_name(home: Home, name: str) -> str:
    recorded = recorded_names(home)
    numbered = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    return next(candidate for candidate in numbered if not _is_taken(home.study(candidate), recorded))


class _Interrupts:
    """What SIGINT and SIGTERM do: the first ends the search cleanly, the second ends everything at once.

    Where the search is over by itself the first is answered with a sentence: what is left is to record it.
    """

    def __init__(self, display: SweepDisplay):
        self.search_is_over = False
        self._display = display
        self._came_before = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Answers a signal."""
        if self._came_before:
            os._exit(130)
        self._came_before = True
        if not self.search_is_over:
            raise KeyboardInterrupt
        self._display.note("the search is over and its end is being recorded; once more ends that at once")

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Answers signals until its end."""
        former = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


__all__ = ["SweepResult", "resume_sweep", "run_sweep"]
