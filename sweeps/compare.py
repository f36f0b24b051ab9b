"""Trials and studies side by side: what differs, and which difference is real.

Students are measured now, on the pairs that they share, and their differences by a paired bootstrap over
people: see `distill.evaluation.comparison`. Numbers of different pairs are shown and not compared.

P: pairs
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.text import Text
from torch import nn

from distill.checkpoint import BEST, load_student
from distill.config import TrialConfig
from distill.errors import InputError, RefusedError
from distill.evaluation import (
    Resampled,
    embed_pairs,
    pair_similarity,
    resampled_metrics,
)
from distill.evaluation.comparison import CONFIDENCE
from distill.faces import VerificationPairs
from sweeps.columns import Column, fitted_table, metric_text, setting_text
from sweeps.home import Home
from sweeps.leaderboard import TrialRow, rank
from sweeps.show import better_side, found_row, resolved
from sweeps.space import SearchSpace
from sweeps.study import load_study, read_space, trial_rows
from sweeps.tracking import flatten

TEACHER = "teacher"
RECORDED = ("efficiency/parameters", "efficiency/macs", "validation/teacher_similarity")
"""What is compared beside the pairs, as it was recorded."""
QUARTERS = (0.25, 0.5, 0.75, 1.0)
MAX_CELL = 16

Of = Literal["validation", "benchmark"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One side of a comparison: a trial, or the first trial's teacher.

    Attributes:
        name: As `study:trial`, or `teacher`.
        row: None of a teacher.
        settings: By dotted name.
        student: Its folder; None of a teacher.
        study: That it was named by, where that alone was named.
    """

    name: str
    config: TrialConfig
    row: TrialRow | None = None
    settings: Mapping[str, Any]
    student: Path | None = None
    study: str | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the pairs say of a subject, or why they say nothing.

    Attributes:
        digest: Of the pairs; None where it could not be measured.
        metrics: On these pairs, with what they would be with other people.
        refusal: Why it is not tested against the first.
    """

    digest: str | None
    metrics: Mapping[str, Resampled]
    refusal: str | None


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """How a study stands beside others.

    Attributes:
        states: Trials by state.
        epochs: That its trials trained, together.
        best_after: Best value of the first objective after so many epochs of all trials, in their order.
    """

    name: str
    objective: str
    states: Mapping[str, int]
    epochs: int
    best_after: Mapping[int, float | None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Subjects side by side; the first is what the others are compared with."""

    of: Of
    subjects: Sequence[Subject]
    measured: Sequence[Measured]
    studies: Sequence[StudyFacts]
    warnings: Sequence[str]

    def differing(self) -> dict[str, list[Any]]:
        """Settings in which the trials differ, with the value of each."""
        trials = [subject.settings for subject in self.subjects if subject.row is not None]
        names = dict.fromkeys(name for settings in trials for name in settings)
        values = {name: [settings.get(name) for settings in trials] for name in names}
        return {name: found for name, found in values.items() if len({json.dumps(v) for v in found}) > 1}

    def differences(self, index: int) -> dict[str, Resampled]:
        """The metrics of a subject less those of the first, where both were measured on the same pairs."""
        first, other = self.measured[0], self.measured[index]
        if index == 0 or other.refusal is not None:
            return {}
        return {
            name: value - first.metrics[name]
            for name, value in other.metrics.items()
            if name in first.metrics
        }

    def document(self) -> dict[str, Any]:
        """As plain types, for `--json`."""
        trials = [subject.name for subject in self.subjects if subject.row is not None]
        return {
            "pairs": self.of,
            "confidence": CONFIDENCE,
            "first": self.subjects[0].name,
            "warnings": list(self.warnings),
            "settings": {
                name: dict(zip(trials, values, strict=True)) for name, values in self.differing().items()
            },
            "subjects": [
                {
                    "name": subject.name,
                    "pairs_sha256": measured.digest,
                    "refusal": measured.refusal,
                    "recorded": {} if subject.row is None else subject.row.metrics,
                    "metrics": {name: _numbers(value) for name, value in measured.metrics.items()},
                    "differences": {
                        name: {**_numbers(value), "verdict": verdict(name, value)}
                        for name, value in self.differences(index).items()
                    },
                }
                for index, (subject, measured) in enumerate(zip(self.subjects, self.measured, strict=True))
            ],
            "studies": [asdict(study) for study in self.studies],
        }


def compare(home: Home, names: Sequence[str], *, of: Of = "validation") -> Comparison:
    """Compares trials with the first of them.

    Args:
        names: `STUDY:TRIAL`, `STUDY` for its best trial, or `teacher` for the first trial's; two or more.
        of: The pairs that they are measured on.

    Raises:
        InputError: If a study or trial does not exist, or there are fewer than two.
        RefusedError: If a study that was named alone has no complete trial.
    """
    if len(names) < 2:
        raise InputError(f"compare needs two trials or more, got {' '.join(names) or 'none'}")
    subjects = _subjects(home, names)
    measured = _measured(subjects, of)
    warnings = []
    if of == "benchmark":
        warnings.append(
            "the benchmark was looked at: choose by it, and what it says of the chosen one is too good"
        )
    studies = list(dict.fromkeys(subject.study for subject in subjects if subject.study is not None))
    facts = _studies(home, studies) if len(studies) > 1 else []
    if len({study.objective for study in facts}) > 1:
        warnings.append("the studies improve different metrics: their best values are not comparable")
    return Comparison(of=of, subjects=subjects, measured=measured, studies=facts, warnings=warnings)


def verdict(metric: str, difference: Resampled) -> str:
    """What a difference to the first comes to, in two words."""
    if not difference.is_real:
        return "not resolved"
    side = better_side(metric, {})
    return "really better" if (difference.value > 0) == (side == "maximize") else "really worse"


def as_text(comparison: Comparison, *, width: int, symbols: bool = True) -> RenderableType:
    """Lays a comparison out for a terminal.

    Args:
        width: Of the terminal, in characters.
    """
    del symbols
    letters = _letters(comparison)
    blocks = [
        fitted_table(
            [
                Column("", letters),
                Column("compared", [subject.name for subject in comparison.subjects]),
                Column(
                    "state", [subject.row.state if subject.row else "" for subject in comparison.subjects]
                ),
                Column("student", [_made_of(subject) for subject in comparison.subjects], keep=1),
            ],
            width=width,
        ),
        *_settings_table(comparison, letters, width=width),
        *_metrics_table(comparison, letters, width=width),
        *_recorded_table(comparison, letters, width=width),
        *_studies_tables(comparison, width=width),
    ]
    notes = [
        f"{letter} is not tested against A: {measured.refusal}"
        for letter, measured in zip(letters, comparison.measured, strict=True)
        if measured.refusal is not None
    ]
    blocks += [Text("\n".join([*notes, *comparison.warnings]))] if notes or comparison.warnings else []
    gapped: list[RenderableType] = []
    for block in blocks:
        gapped += [block, ""]
    return Group(*gapped[:-1])


def _subjects(home: Home, names: Sequence[str]) -> list[Subject]:
    trials = {name: _trial(home, name) for name in names if name != TEACHER}
    if not trials:
        raise InputError("compare needs a trial, to know whose teacher is meant")
    taught = next(iter(trials.values())).config
    teacher = Subject(
        name=TEACHER, config=taught, settings=flatten(taught.teacher.model_dump(mode="json"), "teacher.")
    )
    return [trials.get(name, teacher) for name in names]


def _trial(home: Home, name: str) -> Subject:
    study, colon, number = name.partition(":")
    if colon and not number.isdecimal():
        raise InputError(f"a trial must be named STUDY:NUMBER, got {name!r}")
    space = read_space(home, study)
    rows = _ranked(home, study, space)
    if colon:
        row = found_row(rows, study, int(number))
    else:
        row = next((row for row in rows if row.state == "complete"), None)
        if row is None:
            raise RefusedError(f"study {study} has no complete trial to compare")
    return Subject(
        name=f"{study}:{row.number}",
        config=space.config(row.params, seed_offset=row.seed_offset),
        row=row,
        settings=resolved(space, row),
        student=home.study(study).trial(row.number) / BEST,
        study=None if colon else study,
    )


def _ranked(home: Home, study: str, space: SearchSpace) -> list[TrialRow]:
    return rank(trial_rows(load_study(home, study), space), space.objectives, space.constraints)


def _measured(subjects: Sequence[Subject], of: Of) -> list[Measured]:
    """Measures all subjects; those of other pairs than the first's say so."""
    measured: list[Measured] = []
    pairs: dict[str, VerificationPairs] = {}
    for subject in subjects:
        refusal = _refusal(subject)
        if refusal is not None:
            measured.append(Measured(digest=None, metrics={}, refusal=refusal))
            continue
        faces = subject.config.faces
        source = faces.model_dump_json()
        if source not in pairs:
            pairs[source] = faces.benchmark_pairs() if of == "benchmark" else faces.validation_pairs()
        found = pairs[source]
        similarity_P = pair_similarity(embed_pairs(_network(subject), found), found)
        first = measured[0] if measured else None
        if first is not None and first.digest is None:
            refusal = f"{subjects[0].name} could not be measured"
        elif first is not None and first.digest != found.digest:
            refusal = f"its {of} pairs are not those of {subjects[0].name} ({_faces(subject)})"
        measured.append(
            Measured(digest=found.digest, metrics=resampled_metrics(similarity_P, found), refusal=refusal)
        )
    return measured


def _refusal(subject: Subject) -> str | None:
    """Why a subject cannot be measured."""
    if subject.student is None or subject.student.is_dir():
        return None
    if subject.row is not None and subject.row.state in ("complete", "pruned"):
        return f"its student is not kept in {subject.student}"
    return "it has no student"


def _network(subject: Subject) -> nn.Module:
    if subject.student is None:
        return subject.config.teacher.load()
    return load_student(subject.student)[0]


def _faces(subject: Subject) -> str:
    faces = subject.config.faces
    return f"{faces.name}, {faces.size_px} px"


def _studies(home: Home, names: Sequence[str]) -> list[StudyFacts]:
    spaces = {name: read_space(home, name) for name in names}
    rows = {name: _ranked(home, name, space) for name, space in spaces.items()}
    least = min(sum(row.epochs for row in found) for found in rows.values())
    marks = sorted({round(share * least) for share in QUARTERS} - {0})
    return [
        StudyFacts(
            name=name,
            objective=space.objectives[0].metric,
            states=dict(sorted(Counter(str(row.state) for row in rows[name]).items())),
            epochs=sum(row.epochs for row in rows[name]),
            best_after={mark: _best_after(rows[name], space, mark) for mark in marks},
        )
        for name, space in spaces.items()
    ]


def _best_after(rows: Sequence[TrialRow], space: SearchSpace, epochs: int) -> float | None:
    """The best value among the first trials that, one after the other, train so many epochs."""
    maximize = space.objectives[0].direction == "maximize"
    spent, values = 0, []
    for row in sorted(rows, key=lambda row: row.number):
        spent += row.epochs
        if spent > epochs:
            break
        if row.values and row.state in ("complete", "pruned"):
            values.append(row.values[0])
    return (max(values) if maximize else min(values)) if values else None


def _letters(comparison: Comparison) -> list[str]:
    return [chr(ord("A") + index) for index in range(len(comparison.subjects))]


def _made_of(subject: Subject) -> str:
    if subject.row is None:
        return subject.config.teacher.name
    best = f", the best of {subject.study}" if subject.study else ""
    return f"{subject.config.student.name} by {subject.config.method.name}{best}"


def _settings_table(comparison: Comparison, letters: list[str], *, width: int) -> list[RenderableType]:
    differing = comparison.differing()
    if not differing:
        return []
    trials = [
        letter
        for letter, subject in zip(letters, comparison.subjects, strict=True)
        if subject.row is not None
    ]
    columns = [Column("setting that differs", list(differing))]
    for index, letter in enumerate(trials):
        cells = [_cut(setting_text(values[index])) for values in differing.values()]
        columns.append(Column(letter, cells, keep=index))
    return [fitted_table(columns, width=width)]


def _metrics_table(comparison: Comparison, letters: list[str], *, width: int) -> list[RenderableType]:
    """A row a metric and subject: its value, and how it differs from the first."""
    names = list(dict.fromkeys(name for measured in comparison.measured for name in measured.metrics))
    cells: list[tuple[str, ...]] = []
    for name in names:
        title = name
        for index, letter in enumerate(letters):
            if (value := comparison.measured[index].metrics.get(name)) is None:
                continue
            row = (title, letter, metric_text(value.value), _span(value))
            difference = comparison.differences(index).get(name)
            told = ("", "", "")
            if difference is not None:
                told = (f"{difference.value:+.4f}", _span(difference, signed=True), verdict(name, difference))
            cells.append((*row, *told))
            title = ""
    if not cells:
        return []
    metric, letter, value, interval, difference, span, judged = map(list, zip(*cells, strict=True))
    interval_head = f"{CONFIDENCE:.0%} interval"
    table = fitted_table(
        [
            Column(comparison.of, [_shorter(name) for name in metric]),
            Column("", letter),
            Column("value", value, right=True),
            Column(interval_head, interval, keep=1),
            Column("less A", difference, right=True),
            Column(interval_head, span),
            Column("verdict", judged),
        ],
        width=width,
    )
    one_in = round(1 / (1 - CONFIDENCE))
    note = Text(
        f"Intervals are over people. One in {one_in} differences that are none is called real.",
        style="dim",
    )
    return [Group(table, note) if any(judged) else table]


def _recorded_table(comparison: Comparison, letters: list[str], *, width: int) -> list[RenderableType]:
    rows = [subject.row for subject in comparison.subjects]
    names = [name for name in RECORDED if any(row is not None and name in row.metrics for row in rows)]
    untested = [
        subject.row.metrics
        for subject, measured in zip(comparison.subjects, comparison.measured, strict=True)
        if measured.refusal is not None and subject.row is not None
    ]
    if untested:
        names = ["validation/verification_accuracy", "validation/eer", *names]
    if not names:
        return []
    columns = [Column("as recorded", names)]
    for index, (letter, row) in enumerate(zip(letters, rows, strict=True)):
        if row is not None:
            cells = [metric_text(row.metrics.get(name)) for name in names]
            columns.append(Column(letter, cells, right=True, keep=index))
    return [fitted_table(columns, width=width)]


def _studies_tables(comparison: Comparison, *, width: int) -> list[RenderableType]:
    studies = comparison.studies
    if not studies:
        return []
    states = sorted({state for study in studies for state in study.states})
    marks = list(studies[0].best_after)
    counted = fitted_table(
        [
            Column("study", [study.name for study in studies]),
            *(
                Column(state, [str(study.states.get(state, 0)) for study in studies], right=True, keep=1)
                for state in states
            ),
            Column("epochs", [str(study.epochs) for study in studies], right=True),
        ],
        width=width,
    )
    if len({study.objective for study in studies}) > 1 or not marks:
        return [counted]
    best = fitted_table(
        [
            Column("best so far after", [study.name for study in studies]),
            *(
                Column(f"{mark} epochs", [metric_text(s.best_after[mark]) for s in studies], right=True)
                for mark in marks
            ),
        ],
        width=width,
    )
    return [counted, best]


def _numbers(value: Resampled) -> dict[str, Any]:
    return {"value": value.value, "low": value.interval.low, "high": value.interval.high, "over": value.over}


def _span(value: Resampled, *, signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    return f"{value.interval.low:{form}} to {value.interval.high:{form}}"


def _shorter(metric: str) -> str:
    """A metric's name where its group is what matters."""
    return metric.replace("shared_threshold_accuracy_", "").replace("verification_", "")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1]}…"
