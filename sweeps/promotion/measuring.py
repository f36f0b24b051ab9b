"""What is known of the student that was selected, once it has met the benchmark and was exported.

P: pairs
"""

import platform
import shutil
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from distill.checkpoint import BEST, StudentCard, load_student
from distill.config import TrialConfig
from distill.errors import RefusedError
from distill.evaluation import (
    Interval,
    accuracy_interval,
    embed_pairs,
    measured_efficiency,
    pair_metrics,
    pair_similarity,
    static_efficiency,
)
from distill.export import FILES, export
from distill.faces import VerificationPairs
from distill.teachers import Teacher
from sweeps.home import Home
from sweeps.leaderboard import TrialRow
from sweeps.space.metrics import FACES_PER_SECOND

COMPARED_FACES = 256
PREFIX = "benchmark"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A network on the benchmark.

    Attributes:
        similarity_P: Cosine similarity that it gives to each pair.
        metrics: Of the benchmark, by name.
        interval: Of the verification accuracy.
    """

    similarity_P: Tensor
    metrics: Mapping[str, float]
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The student that was selected, and what the benchmark says of it and of its teacher.

    Attributes:
        chosen: By what it was selected.
        folder: A copy of its folder, with the exported file in it.
        metrics: Of its training, its benchmark, its efficiency and its export.
        similarity_P: Cosine similarity that it gives to each pair of the benchmark.
    """

    row: TrialRow
    chosen: str
    config: TrialConfig
    card: StudentCard
    folder: Path
    teacher: Teacher
    benchmark: VerificationPairs
    similarity_P: Tensor
    metrics: Mapping[str, float]
    teacher_metrics: Mapping[str, float]
    interval: Interval
    teacher_interval: Interval


def measure(
    home: Home,
    name: str,
    row: TrialRow,
    config: TrialConfig,
    *,
    chosen: str,
    asked: Collection[str],
    folder: Path,
) -> Candidate:
    """Copies the selected student, exports it, and measures it and its teacher on the benchmark.

    Args:
        asked: Metrics that gates ask for. The pace is measured only if it is among them.
        folder: Where the copy is put; must not exist.

    Raises:
        InputError: If the student is not there any more, or damaged.
        RefusedError: If the exported file does not embed as the student does.
    """
    kept = home.study(name).trial(row.number) / BEST
    student, card = load_student(kept)
    shutil.copytree(kept, folder)
    teacher = config.teacher.load()
    benchmark = config.faces.benchmark_pairs()
    exported = export(
        student, card, folder / FILES["onnx"], format="onnx", faces=benchmark.images_NCHW[:COMPARED_FACES]
    )
    own, teachers = (on_benchmark(network, benchmark) for network in (student, teacher))
    pace = measured_efficiency(student, size_px=card.size_px) if set(FACES_PER_SECOND) & set(asked) else {}
    return Candidate(
        row=row,
        chosen=chosen,
        config=config,
        card=card,
        folder=folder,
        teacher=teacher,
        benchmark=benchmark,
        similarity_P=own.similarity_P,
        metrics={
            **card.metrics,
            **own.metrics,
            **static_efficiency(student, size_px=card.size_px),
            **pace,
            "export/onnx_bytes": float(exported.size_bytes),
            "export/onnx_min_cosine": exported.parity.min_cosine,
            "export/onnx_mean_cosine": exported.parity.mean_cosine,
        },
        teacher_metrics=teachers.metrics,
        interval=own.interval,
        teacher_interval=teachers.interval,
    )


def on_benchmark(network: nn.Module, benchmark: VerificationPairs) -> Measured:
    """Measures a network on the benchmark."""
    similarity_P = pair_similarity(embed_pairs(network, benchmark), benchmark)
    return Measured(
        similarity_P=similarity_P,
        metrics=pair_metrics(similarity_P, benchmark, prefix=PREFIX),
        interval=accuracy_interval(similarity_P, benchmark),
    )


def on_the_same_pairs(folder: Path, candidate: Candidate) -> Measured:
    """Measures another student on the candidate's benchmark, its faces at the size that it takes.

    Raises:
        InputError: If the folder holds no student.
        RefusedError: If the benchmark has other pairs at that size.
    """
    student, card = load_student(folder)
    benchmark, sizes = candidate.benchmark, ("size_px", "captured_px")
    if any(getattr(card, size) != getattr(candidate.card, size) for size in sizes):
        resized = candidate.config.faces.model_copy(update={size: getattr(card, size) for size in sizes})
        benchmark = resized.benchmark_pairs()
        pairs = ("left_P", "right_P", "is_genuine_P")
        if not all(getattr(benchmark, pair).equal(getattr(candidate.benchmark, pair)) for pair in pairs):
            raise RefusedError(
                f"the champion takes faces of {card.size_px} px, at which the benchmark has other pairs: "
                "the two cannot be compared"
            )
    return on_benchmark(student, benchmark)


def this_machine() -> str:
    """What a pace was measured on: the processor's name, and the host's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(models, platform.processor() or platform.machine())} of {socket.gethostname()}"
