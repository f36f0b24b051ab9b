"""The model card of a promoted student: all that who loads it should know, on one page of Markdown.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019. https://arxiv.org/abs/1810.03993
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.checkpoint import StudentCard
from distill.config import TrialConfig
from distill.evaluation import Interval
from sweeps.space.settings import number

UNKNOWN = "not stated"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a card is written about.

    Attributes:
        model: Its name in the registry.
        study, trial: Where it was found.
        metrics: Of the student, those of the benchmark and of efficiency among them.
        teacher_metrics: Of its teacher on the benchmark.
        interval, teacher_interval: 95 % of the verification accuracies on the benchmark.
        groups: Names of the benchmark's demographic groups.
        gates: What each gate said, a sentence each.
        about: Where it comes from and who promoted it, by name.
        teacher_card: What is known of the teacher.
        generator_card: What is known of the generator of the training faces, if there is one.
        files: Size in bytes of each file that comes with the model, by name.
    """

    model: str
    study: str
    trial: int
    config: TrialConfig
    student: StudentCard
    metrics: Mapping[str, float]
    teacher_metrics: Mapping[str, float]
    interval: Interval
    teacher_interval: Interval
    groups: Sequence[str]
    gates: Sequence[str]
    about: Mapping[str, str]
    teacher_card: Mapping[str, Any]
    generator_card: Mapping[str, Any]
    training_digest: str
    benchmark_digest: str
    files: Mapping[str, int]


def model_card(subject: Subject) -> str:
    """Writes the card."""
    config, student = subject.config, subject.student
    sections = [
        f"# {subject.model}",
        f"A face embedder, distilled by {config.method.name} into a {config.student.name}. "
        f"Trial {subject.trial} of study {subject.study}, epoch {student.epoch}.",
        "## Use",
        f"Input: faces of shape (N, 3, {student.size_px}, {student.size_px}), RGB, float32, in [-1, 1], "
        "aligned as the training faces were. Output: raw embeddings of shape "
        f"(N, {student.embedding_dim}); two faces are compared by the cosine of theirs.",
        _list(f"`{name}`: {size:,} bytes" for name, size in subject.files.items()),
        "## Benchmark",
        _accuracies(subject),
        _by_group(subject),
        _table(("metric", "student", "teacher"), _other_metrics(subject)),
        "## Gates",
        _list(subject.gates) or "None was set.",
        "## Efficiency",
        _table(("measure", "value"), _efficiency(subject)),
        "## Origin",
        _table(("", ""), subject.about.items()),
        "## Data",
        _data(subject),
        "## Teacher",
        _list(
            [
                f"name: {config.teacher.name}",
                f"digest of its weights and facts: {student.teacher_digest}",
                f"licence: {', '.join(_licences(subject.teacher_card))}",
            ]
        ),
        "## Method",
        _table(("setting", "value"), _settings(config)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _licences(teacher_card: Mapping[str, Any]) -> list[str]:
    """That of a teacher, or of each member of an ensemble."""
    members = teacher_card.get("members")
    if members:
        return [licence for member in members for licence in _licences(member)]
    return [teacher_card.get("licence") or UNKNOWN]


def _accuracies(subject: Subject) -> str:
    name = "benchmark/verification_accuracy"
    rows = [
        (who, _number(metrics[name]), f"{_number(interval.low)} to {_number(interval.high)}")
        for who, metrics, interval in (
            ("student", subject.metrics, subject.interval),
            ("teacher", subject.teacher_metrics, subject.teacher_interval),
        )
    ]
    return _table(("", "verification accuracy", "95 % interval"), rows)


def _by_group(subject: Subject) -> str:
    rows = [
        (
            group,
            _number(subject.metrics[f"benchmark/verification_accuracy_{group}"]),
            _number(subject.metrics[f"benchmark/shared_threshold_accuracy_{group}"]),
        )
        for group in subject.groups
    ]
    return _table(("group", "at its own threshold", "at the shared threshold"), rows)


def _other_metrics(subject: Subject) -> list[tuple[str, ...]]:
    by_group = tuple(f"_{group}" for group in subject.groups)
    names = [name for name in subject.teacher_metrics if not (by_group and name.endswith(by_group))]
    both = (subject.metrics, subject.teacher_metrics)
    return [
        (name.removeprefix("benchmark/"), *(_number(metrics[name]) for metrics in both))
        for name in names
        if name != "benchmark/verification_accuracy"
    ]


def _efficiency(subject: Subject) -> list[tuple[str, str]]:
    return [
        (name.partition("/")[2], number(value))
        for name, value in subject.metrics.items()
        if name.startswith(("efficiency/", "export/"))
    ]


def _data(subject: Subject) -> str:
    faces = subject.config.faces
    lines = [
        f"training: {faces.name}, digest {subject.training_digest}",
        f"benchmark: digest {subject.benchmark_digest}",
    ]
    if faces.draws:
        lines.append(f"licence of the generator: {subject.generator_card.get('licence') or UNKNOWN}")
    if faces.name == "embedded":
        lines.append(
            "these faces are drawn: results show that the system works and claim nothing about real faces"
        )
    return _list(lines)


def _settings(config: TrialConfig) -> list[tuple[str, str]]:
    groups = ("method", "student", "optimizer", "schedule", "training")
    shown = {name: getattr(config, name) for name in groups}
    return [
        (f"{group}.{name}", str(value))
        for group, settings in shown.items()
        for name, value in settings.model_dump(mode="json", exclude_none=True).items()
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; nothing where there are no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines]) if lines else ""


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _number(value: float) -> str:
    return f"{value:.4f}"
