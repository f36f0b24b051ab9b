"""What is known of a study: its trials, its champion, and what both networks make of the pairs.

P: verification pairs
"""

import datetime
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from distill.checkpoint import BEST, StudentCard, load_student
from distill.config import TrialConfig
from distill.errors import DivergenceError, InputError
from distill.evaluation import embed_pairs, pair_metrics, pair_similarity, teacher_efficiency
from distill.faces import VerificationPairs
from distill.teachers import Teacher
from sweeps.home import Home
from sweeps.leaderboard import TrialRow, rank
from sweeps.pages.content import MissingError
from sweeps.pages.records import SweepRecord, curves_of, find_record, run_metrics
from sweeps.study import TEACHER, load_study, read_space, summary, trial_rows

ACCURACY = "verification_accuracy"
MEANS = (
    " A point that was trained with several seeds is shown once: the mean, and a standard deviation to "
    "either side. Of a finalist, the trainings that confirm it count alone."
)
"""Says in a caption what stands for a point."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What champion and teacher make of the same pairs.

    Attributes:
        champion_P, teacher_P: Cosine similarity that each gives to each pair.
    """

    pairs: VerificationPairs
    champion_P: Tensor
    teacher_P: Tensor

    @property
    def description(self) -> str:
        """Of the pairs, as a sentence names them."""
        kind = "benchmark" if self.pairs.name == "benchmark" else "validation"
        return f"{len(self.pairs.left_P):,} {kind} pairs"

    @property
    def networks(self) -> dict[str, Tensor]:
        """The similarities by whose they are."""
        return {"champion": self.champion_P, "teacher": self.teacher_P}


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The leaderboard's first trial, with the student that it hands over."""

    row: TrialRow
    config: TrialConfig
    student: nn.Module
    card: StudentCard


class Knowledge:
    """All that a report knows of a study. What is costly is found when a section first asks for it.

    Raises:
        InputError: If the home has no study of that name.
    """

    def __init__(self, home: Home, name: str):
        self.home, self.name = home, name
        self.space = read_space(home, name)
        self.study = load_study(home, name)
        self.rows: Sequence[TrialRow] = rank(
            trial_rows(self.study, self.space), self.space.objectives, self.space.constraints
        )
        self.trials = {trial.number: trial for trial in self.study.get_trials(deepcopy=False)}
        self.state: str = summary(home, name)["state"]
        self.made = datetime.datetime.now().astimezone()

    @property
    def metric(self) -> str:
        """The first objective's."""
        return self.space.objectives[0].metric

    @property
    def ranks_on_benchmark(self) -> bool:
        """Whether trials were ranked on what should judge the best of them alone."""
        return self.space.selection == "benchmark"

    @property
    def complete(self) -> list[TrialRow]:
        """Trials that ended as they should, best first."""
        return [row for row in self.rows if row.state == "complete"]

    @property
    def best(self) -> TrialRow | None:
        """The leaderboard's first trial; None before one has completed."""
        return next(iter(self.complete), None)

    @property
    def is_repeated(self) -> bool:
        """Whether a point was trained with several seeds."""
        return any(row.point != row.number for row in self.rows)

    @functools.cached_property
    def points(self) -> Sequence[TrialRow]:
        """Every point once, the best first: the means of its trainings, under the number that drew it."""
        if not self.is_repeated:
            return self.rows
        return [_joined(rows, lambda values: float(np.mean(values))) for rows in self._by_point]

    @functools.cached_property
    def spreads(self) -> dict[int, dict[str, float]]:
        """Standard deviations of metrics over seeds, of each point that has several, by its number."""
        return {
            rows[0].point: _joined(rows, lambda values: float(np.std(values, ddof=1))).metrics
            for rows in self._by_point
            if len(_counting(rows)) > 1
        }

    @property
    def best_point(self) -> TrialRow | None:
        """The champion's; None before a trial has completed."""
        return next((row for row in self.points if row.state == "complete"), None)

    @property
    def points_are(self) -> str:
        """What one mark of a picture stands for."""
        return "point" if self.is_repeated else "trial"

    @property
    def about_points(self) -> str:
        """A sentence for captions; empty where every point was trained once."""
        return MEANS if self.is_repeated else ""

    @property
    def _by_point(self) -> list[list[TrialRow]]:
        of_point: dict[int, list[TrialRow]] = {}
        for row in self.rows:
            of_point.setdefault(row.point, []).append(row)
        return list(of_point.values())

    def count(self, state: str) -> int:
        """Trials in a state."""
        return sum(row.state == state for row in self.rows)

    def states(self) -> str:
        """How many trials are in each state, in words."""
        return ", ".join(
            f"{self.count(state)} {state}" for state in dict.fromkeys(row.state for row in self.rows)
        )

    @functools.cached_property
    def record(self) -> SweepRecord | None:
        """What MLflow holds of the sweep."""
        return find_record(self.home, self.name)

    @functools.cached_property
    def champion(self) -> Champion:
        """The champion, loaded.

        Raises:
            MissingError: If no trial has completed.
            InputError: If its student is not there, or not whole.
        """
        if (row := self.best) is None:
            raise MissingError("No trial has completed, so there is no student to look at.")
        student, card = load_student(self.home.study(self.name).trial(row.number) / BEST)
        config = self.space.config(row.params, seed_offset=row.seed_offset)
        return Champion(row=row, config=config, student=student, card=card)

    @functools.cached_property
    def teacher_network(self) -> Teacher:
        """The champion's teacher, loaded. Raises as `champion`, and if the teacher does not load."""
        return self.champion.config.teacher.load()

    @functools.cached_property
    def is_promoted(self) -> bool:
        """Whether the champion was measured on the benchmark that no trial has seen: only promotion does."""
        if self.best is None or self.ranks_on_benchmark:
            return False
        return f"benchmark/{ACCURACY}" in run_metrics(self.home, self.best.run_id)

    @functools.cached_property
    def measured(self) -> Measured:
        """Champion and teacher, on the benchmark where the champion has met it, else on validation pairs.

        Raises:
            MissingError: If no trial has completed.
            InputError: If student, teacher or pairs cannot be read.
            DivergenceError: If an embedding is not finite.
        """
        faces = self.champion.config.faces
        pairs = (
            faces.benchmark_pairs()
            if self.is_promoted or self.ranks_on_benchmark
            else faces.validation_pairs()
        )
        champion_P, teacher_P = (
            pair_similarity(embed_pairs(network, pairs), pairs)
            for network in (self.champion.student, self.teacher_network)
        )
        return Measured(pairs=pairs, champion_P=champion_P, teacher_P=teacher_P)

    @functools.cached_property
    def teacher(self) -> dict[str, float]:
        """The teacher's metrics: the study's, or measured while it has none; nothing where neither can be."""
        if (known := self.study.user_attrs.get(TEACHER)) is not None:
            return known
        try:
            measured, network = self.measured, self.teacher_network
        except (MissingError, InputError, DivergenceError):
            return {}
        metrics = pair_metrics(measured.teacher_P, measured.pairs, prefix=measured.pairs.name)
        return metrics | teacher_efficiency(network, size_px=self.champion.config.faces.size_px)

    def curve(self, row: TrialRow) -> list[tuple[int, float]]:
        """The first objective of a trial by epoch."""
        if known := self.trials[row.number].intermediate_values:
            return sorted(known.items())
        return self.curves(row, [self.metric]).get(self.metric, [])

    def curves(self, row: TrialRow, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
        """Metrics of a trial by epoch, as MLflow has them."""
        return curves_of(self.home, row.run_id, names)

    def epochs_of(self, row: TrialRow) -> int:
        """Epochs of a trial that is not stopped."""
        return int(row.params.get("training.epochs", self.space.max_epochs))


def _counting(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Of the trainings of a point, those that its standing is made of."""
    complete = [row for row in rows if row.state == "complete"]
    return [row for row in complete if row.confirms] or complete


def _joined(rows: Sequence[TrialRow], over: Callable[[list[float]], float]) -> TrialRow:
    """The trainings of a point as one row."""
    counting = _counting(rows)
    first = replace(rows[0], number=rows[0].point)
    if not counting:
        return first
    shared = set[str].intersection(*(set(row.metrics) for row in counting))
    return replace(
        first,
        values=[over(list(values)) for values in zip(*(row.values or () for row in counting), strict=True)],
        metrics={name: over([row.metrics[name] for row in counting]) for name in sorted(shared)},
    )
