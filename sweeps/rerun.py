"""Repeats a trial from its record alone, and says whether the numbers agree.

One process trains it, with the threads that the trial had. On the same machine, with the same versions, every
number of every epoch is then the same to the last bit. On another machine rounding may differ. Several
workers are no single process: each normalises its own part of a batch. Where memory ran out and batches were
cut into more portions, they are cut so again, from the same epoch on.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from distill.config import TrialConfig
from distill.errors import InputError, RefusedError
from distill.training import train
from sweeps.curves import learning_curves
from sweeps.home import Home
from sweeps.provenance import Provenance
from sweeps.record import DIGEST_LENGTH, Record, notes, read_record

CLOSE, WORKERS_APART = 1e-6, 0.05
"""Relative differences that count as agreement: of one process, and of one process from several workers."""
TIMINGS = ("train/faces_per_second",)
"""What no second run repeats."""

Verdict = Literal["equal", "close", "differs"]


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """A metric then and now.

    Attributes:
        then, now: At the epoch, counted from 1, where they are furthest apart.
        apart: Their relative difference there.
    """

    metric: str
    epoch: int
    then: float
    now: float
    apart: float

    @property
    def verdict(self) -> Verdict:
        """Whether the metric is what it was, at every epoch."""
        if self.apart == 0:
            return "equal"
        return "close" if self.apart <= CLOSE else "differs"


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """What a repetition came to.

    Attributes:
        metrics: Those that both reported, the furthest apart first.
        missing: Metrics that only one of them reported.
        changed: What is not as it was: code, versions, faces, teacher; a sentence each.
        tolerance: Relative difference up to which it agrees.
        folder: Of the repeated trial.
    """

    study: str
    trial: int
    epochs: int
    metrics: list[Repeated]
    missing: list[str]
    changed: list[str]
    tolerance: float
    folder: Path

    @property
    def agrees(self) -> bool:
        """Whether no number is further from its record than it may be."""
        return bool(self.metrics) and all(metric.apart <= self.tolerance for metric in self.metrics)

    def document(self) -> dict[str, Any]:
        """As plain types, for `--json`."""
        return {
            "study": self.study,
            "trial": self.trial,
            "agrees": self.agrees,
            "epochs": self.epochs,
            "tolerance": self.tolerance,
            "changed": self.changed,
            "folder": str(self.folder),
            "missing": self.missing,
            "metrics": {
                metric.metric: {
                    "verdict": metric.verdict,
                    "epoch": metric.epoch,
                    "then": metric.then,
                    "now": metric.now,
                    "apart": metric.apart,
                }
                for metric in self.metrics
            },
        }


class _EnoughEpochs(Exception):  # noqa: N818 (no error: it ends a training where the trial was ended)
    pass


def rerun(home: Home, study: str, number: int, *, anyway: bool = False) -> Rerun:
    """Repeats a trial, up to the epoch that it had reached.

    Args:
        anyway: Whether to go on where teacher or faces are not those of the record.

    Raises:
        InputError: If there is no such record, or its teacher or faces do not load.
        RefusedError: If the trial cannot be repeated, or it would not be the same one.
        DivergenceError: If it diverges.
    """
    record = read_record(home, study, number)
    then = learning_curves(home, record.run_id)
    if record.scheduler == "pbt":
        raise RefusedError(
            f"trial {number} of {study} cannot be repeated alone: under pbt a trial may go on from another's "
            "state, with other settings"
        )
    if not then:
        raise RefusedError(f"trial {number} of {study} finished no epoch: there is nothing to repeat")
    other = [*_other_material(record)]
    if other and not anyway:
        raise RefusedError(f"trial {number} of {study} is not repeated: {'; '.join(other)} (see --anyway)")

    folder = _fresh_folder(home.study(study).root / "reruns", number)
    epochs = max(epoch for points in then.values() for epoch, _ in points)
    now = _train(record, folder, epochs=epochs, cache=home.root / "cache" / "embeddings")
    metrics, missing = _compared(then, now)
    distributed = not record.resources.in_place
    return Rerun(
        study=study,
        trial=number,
        epochs=epochs,
        metrics=metrics,
        missing=missing,
        changed=[*other, *_changes(record)],
        tolerance=WORKERS_APART if distributed else CLOSE,
        folder=folder,
    )


def _train(record: Record, folder: Path, *, epochs: int, cache: Path) -> dict[str, dict[int, float]]:
    """Trains so many epochs of it; returns every metric's values by epoch."""
    now: dict[str, dict[int, float]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(record.resources.num_threads)
    try:
        for last, times in stages(record.accumulations, epochs=epochs):
            training = record.config.training
            portions = training.model_copy(update={"accumulation": training.accumulation * times})
            config = record.config.model_copy(update={"training": portions})
            with contextlib.suppress(_EnoughEpochs):
                train(config, report=_Reports(now, last=last), directory=folder, cache=cache)
    finally:
        torch.set_num_threads(threads)
    return now


class _Reports:
    """Keeps every metric's values by epoch, and ends the training after an epoch."""

    def __init__(self, values: dict[str, dict[int, float]], *, last: int):
        self._values, self._last = values, last

    def __call__(self, metrics: dict[str, float], checkpoint: Path) -> None:
        epoch = int(metrics["epoch"])
        for name, value in metrics.items():
            self._values.setdefault(name, {})[epoch] = value
        if epoch == self._last:
            raise _EnoughEpochs


def stages(accumulations: Mapping[int, int], *, epochs: int) -> list[tuple[int, int]]:
    """What a trial trained in one go: up to which epoch, and in how many times the config's portions.

    Args:
        accumulations: As `Record` has them.
        epochs: That it trained in all.
    """
    begun = sorted({0: 1, **accumulations}.items())
    ends = [*(epoch for epoch, _ in begun[1:]), epochs]
    return [(end, times) for (start, times), end in zip(begun, ends, strict=True) if start < end]


def _compared(
    then: Mapping[str, list[tuple[int, float]]], now: Mapping[str, Mapping[int, float]]
) -> tuple[list[Repeated], list[str]]:
    metrics = []
    names = [name for name in then if "/" in name and name not in TIMINGS]
    for name in names:
        pairs = [(epoch, value, now[name][epoch]) for epoch, value in then[name] if name in now]
        apart = [
            Repeated(metric=name, epoch=epoch, then=old, now=new, apart=_apart(old, new))
            for epoch, old, new in pairs
        ]
        metrics += [max(apart, key=lambda repeated: repeated.apart)] if apart else []
    known = {name for name in now if "/" in name and name not in TIMINGS}
    return sorted(metrics, key=lambda repeated: -repeated.apart), sorted(known.symmetric_difference(names))


def _apart(then: float, now: float) -> float:
    """The difference, as a share of the larger one."""
    return 0.0 if then == now else abs(then - now) / max(abs(then), abs(now))


def _other_material(record: Record) -> list[str]:
    """What the trial would be taught by, or see, that is not what it was."""
    config = record.config
    found = {"teacher": config.teacher.load().digest, **_face_digests(config)}
    recorded = {"teacher": record.teacher_digest, **record.datasets}
    return [
        f"the {name if name == 'teacher' else f'{name} faces'} had digest {recorded[name]}, "
        f"now {digest[: len(recorded[name] or '')]}"
        for name, digest in found.items()
        if (known := recorded.get(name)) is not None and not digest.startswith(known)
    ]


def _face_digests(config: TrialConfig) -> dict[str, str]:
    return {
        "training": config.faces.training_digest()[:DIGEST_LENGTH],
        "validation": config.faces.validation_pairs().digest[:DIGEST_LENGTH],
    }


def _changes(record: Record) -> list[str]:
    """What else is not as it was."""
    here = Provenance.of_this_process()
    changes = [
        f"{name} was {version}, now {here.environment().get(name, 'absent')}"
        for name, version in record.environment.items()
        if here.environment().get(name) != version
    ]
    if record.commit != here.commit:
        changes.append(f"the code was at commit {_short(record.commit)}, now at {_short(here.commit)}")
    if record.tags.get("uncommitted") == "true":
        changes.append("the code had uncommitted changes, which the sweep's run holds as uncommitted.diff")
    if here.difference:
        changes.append("the code has uncommitted changes now")
    if (workers := record.resources.workers_per_trial) > 1:
        changes.append(
            f"{workers} workers trained it, each of which normalised its own part of a batch; now it was one "
            f"process, so numbers may be {WORKERS_APART:.0%} apart"
        )
    if record.resources.gpus_per_worker and not torch.cuda.is_available():
        changes.append("a GPU trained it, now a CPU did")
    changes += [
        f"{name}: {text}" for name, text in notes(record.tags).items() if name != "mlflow.note.content"
    ]
    if record.teacher_digest is None:
        changes.append("the record does not tell which teacher it had")
    return changes


def _short(commit: str | None) -> str:
    return commit[:12] if commit else "none (no checkout)"


def _fresh_folder(root: Path, number: int) -> Path:
    taken = {path.name for path in root.glob(f"{number:04d}-*")}
    names = (f"{number:04d}-{count}" for count in range(1, len(taken) + 2))
    folder = root / next(name for name in names if name not in taken)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror})") from error
    return folder


def as_lines(rerun: Rerun) -> list[str]:
    """What a person is told of a repetition."""
    counts = {
        verdict: [metric for metric in rerun.metrics if metric.verdict == verdict]
        for verdict in ("equal", "close", "differs")
    }
    head = f"trial {rerun.trial} of {rerun.study}, {_count(rerun.epochs, 'epoch')} again"
    told = [
        f"{_count(len(counts['equal']), 'metric')} exactly equal",
        f"{len(counts['close'])} within {CLOSE:g}",
        f"{len(counts['differs'])} further apart",
    ]
    lines = [f"{head}: {', '.join(told)}"]
    for metric in counts["differs"]:
        lines.append(
            f"  {metric.metric}: {metric.then:.6g} then, {metric.now:.6g} now, {metric.apart:.1%} apart "
            f"at epoch {metric.epoch}"
        )
    if rerun.missing:
        lines.append(f"only one of them reported {', '.join(rerun.missing)}")
    lines += [f"note: {change}" for change in rerun.changed]
    lines.append(f"kept in {rerun.folder}")
    lines.append("the numbers agree" if rerun.agrees else "the numbers do not agree")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
