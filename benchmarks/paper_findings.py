"""The papers' claims, put to the test on the embedded world: writes `docs/findings.md`, tables and plots.

    python -m benchmarks.paper_findings [--quick] [--out docs] [--work runs/findings] [--seeds 3]

Every student is selected on validation identities and then measured once on the benchmark. Two students
train at a time, each on one thread. Students that are in `--work` already, trained as they would be now, are
not trained again. `--quick` trains a small part, which shows that everything runs and nothing else.
"""

import argparse
import hashlib
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks import findings_report
from benchmarks.findings_statistics import Arm, Finding, Outcome
from distill.checkpoint import BEST, load_student
from distill.config import TrialConfig
from distill.evaluation import (
    embed_pairs,
    measured_efficiency,
    pair_metrics,
    pair_similarity,
    static_efficiency,
    ten_fold,
)
from distill.faces import EmbeddedFacesSettings, VerificationPairs
from distill.methods import MethodContext, Shard
from distill.teachers import EmbeddedTeacherSettings
from distill.training import train

PROCESSES = 2
SHARP_PX = 32
RESOLUTIONS_PX = (16, 24, 32)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is trained.

    Attributes:
        epochs: Of every student.
        faces_per_epoch: Of every student.
        num_classes: Identities of a labelled set.
        seeds: Students of each arm.
    """

    epochs: int
    faces_per_epoch: int
    num_classes: int
    seeds: int


def findings(scale: Scale) -> list[Finding]:
    """The four claims, and the students that each is tested with."""
    training = {"epochs": scale.epochs, "faces_per_epoch": scale.faces_per_epoch, "batch_size": 64}
    common = {"training": training, "optimizer": {"lr": 4e-3}, "student": {"name": "iresnet_small"}}
    classes = {"num_classes": scale.num_classes}
    synthetic = {"name": "embedded", "size_px": SHARP_PX, "domain": "synthetic"}

    resampling = Finding(
        key="synthdistill",
        reference="adaptive_w",
        arms=[
            Arm(
                name=mode,
                settings={
                    **common,
                    "faces": synthetic,
                    "method": {"name": "synthdistill", "resampling": mode},
                },
            )
            for mode in ("adaptive_w", "off", "constant_w", "inverted_w")
        ],
        faces=EmbeddedFacesSettings(size_px=SHARP_PX),
    )
    sface = Finding(
        key="sface",
        reference="classification",
        arms=[
            Arm(
                name=strategy,
                settings={
                    **common,
                    "faces": synthetic,
                    "method": {"name": "sface", "strategy": strategy, "images_per_class": 10, **classes},
                },
            )
            for strategy in ("classification", "transfer", "combined")
        ],
        faces=EmbeddedFacesSettings(size_px=SHARP_PX),
    )
    fair = Finding(
        key="fair_kd",
        reference="authentic, without",
        arms=[
            Arm(
                name=f"{data}, {'with' if strategy == 'combined' else 'without'}",
                settings={
                    **common,
                    "faces": synthetic,
                    "method": {
                        "name": "fair_kd",
                        "strategy": strategy,
                        "authentic_share": share,
                        "images_per_class": 10,
                        **classes,
                    },
                },
            )
            for data, share in (("authentic", 1.0), ("synthetic", 0.0), ("mixed", 0.7))
            for strategy in ("classification", "combined")
        ],
        faces=EmbeddedFacesSettings(size_px=SHARP_PX),
    )
    bridge = [
        Finding(
            key=f"bridge_{size_px}",
            reference="from scratch",
            arms=[
                Arm(
                    name=name,
                    settings={
                        **common,
                        "student": {"name": "bridge_tiny"},
                        "faces": {
                            "name": "embedded",
                            "domain": "authentic",
                            "size_px": size_px,
                            "captured_px": SHARP_PX,
                        },
                        "method": {"name": "bridge", "images_per_class": 10, **classes, **chosen},
                    },
                )
                for name, chosen in (
                    ("from scratch", {"strategy": "classification"}),
                    ("step 2 alone", {"adapter": {"name": "none"}}),
                    ("steps 1 and 2", {"adapter": {"name": "linear", "width": 128}}),
                )
            ],
            faces=EmbeddedFacesSettings(size_px=size_px, captured_px=SHARP_PX),
        )
        for size_px in RESOLUTIONS_PX
    ]
    return [resampling, sface, fair, *bridge]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="train a small part, with one seed")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of findings.md and its plots")
    parser.add_argument("--work", type=Path, default=Path("runs/findings"), help="folder of trained students")
    parser.add_argument("--seeds", type=int, default=3, help="students of each arm")
    arguments = parser.parse_args()
    scale = (
        Scale(epochs=1, faces_per_epoch=1024, num_classes=100, seeds=1)
        if arguments.quick
        else Scale(epochs=4, faces_per_epoch=6144, num_classes=2000, seeds=arguments.seeds)
    )
    began = time.monotonic()
    claims = findings(scale)
    outcomes = _train_all(claims, scale, arguments.work)
    seconds = time.monotonic() - began
    findings_report.write(
        arguments.out,
        claims,
        outcomes,
        pairs={claim.key: _benchmark(claim.faces.size_px, claim.faces.captured_px) for claim in claims},
        teachers={
            claim.key: _teacher_outcome(claim.faces.size_px, claim.faces.captured_px) for claim in claims
        },
        efficiency=_student_efficiency(outcomes[claims[3].key, "steps 1 and 2"][0], RESOLUTIONS_PX[0]),
        scale={
            "seeds": scale.seeds,
            "epochs": scale.epochs,
            "faces an epoch": scale.faces_per_epoch,
            "identities of a labelled set": scale.num_classes,
        },
        command="python -m benchmarks.paper_findings "
        + ("--quick" if arguments.quick else f"--seeds {scale.seeds}"),
        quick=arguments.quick,
        explanations={
            "synthdistill": _why_radii_matter_little(outcomes),
            "bridge": _why_step_one_matters_little(claims[3], outcomes),
        },
    )
    print(f"wrote {arguments.out / 'findings.md'} after {seconds / 60:.1f} minutes of training")


def _train_all(claims: list[Finding], scale: Scale, work: Path) -> dict[tuple[str, str], list[Outcome]]:
    """Trains every student, two at a time; of each arm one a seed."""
    jobs = [
        (claim.key, arm.name, TrialConfig.model_validate({**arm.settings, "seed": seed}))
        for claim in claims
        for arm in claim.arms
        for seed in range(scale.seeds)
    ]
    outcomes: dict[tuple[str, str], list[Outcome]] = {(key, name): [] for key, name, _ in jobs}
    with ProcessPoolExecutor(max_workers=PROCESSES, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(_outcome, config, work): (key, name) for key, name, config in jobs}
        for done, future in enumerate(as_completed(waiting), start=1):
            key, name = waiting[future]
            outcome = future.result()
            outcomes[key, name].append(outcome)
            print(
                f"{done}/{len(jobs)}  {key}  {name}  seed {outcome.seed}  "
                f"benchmark {outcome.metrics['benchmark/verification_accuracy']:.4f}",
                flush=True,
            )
    return {arm: sorted(group, key=lambda outcome: outcome.seed) for arm, group in outcomes.items()}


def _outcome(config: TrialConfig, work: Path) -> Outcome:
    """Trains a student and measures it, or reads what was measured before."""
    torch.set_num_threads(1)
    key = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]
    folder = work / key
    record = folder / "outcome.json"
    if not record.exists():
        train(config, report=lambda metrics, checkpoint: None, directory=folder)
        student, _ = load_student(folder / BEST)
        metrics, is_right_P = _measure(student, _benchmark(config.faces.size_px, config.faces.captured_px))
        save_file({"is_right": is_right_P}, folder / "is_right.safetensors")
        record.write_text(json.dumps(metrics, indent=2))
    return Outcome(
        seed=config.seed,
        metrics=json.loads(record.read_text()),
        is_right_P=load_file(folder / "is_right.safetensors")["is_right"],
        folder=folder,
    )


@cache
def _teacher_outcome(size_px: int, captured_px: int | None) -> Outcome:
    """The teacher on the benchmark for students of these faces."""
    metrics, is_right_P = _measure(EmbeddedTeacherSettings().load(), _benchmark(size_px, captured_px))
    return Outcome(seed=0, metrics=metrics, is_right_P=is_right_P, folder=Path())


def _measure(network: torch.nn.Module, pairs: VerificationPairs) -> tuple[dict[str, float], torch.Tensor]:
    """Metrics on the benchmark, and which of its pairs were judged rightly."""
    similarity_P = pair_similarity(embed_pairs(network, pairs), pairs)
    metrics = pair_metrics(similarity_P, pairs, prefix="benchmark")
    return metrics, ten_fold(2 * (1 - similarity_P), pairs.is_genuine_P).is_right


def _why_radii_matter_little(outcomes: dict[tuple[str, str], list[Outcome]]) -> str:
    """Compares how far the arms of SynthDistill moved their latents in the end."""
    radius = {
        mode: statistics.fmean(
            outcome.card.metrics["train/resampling_radius"] for outcome in outcomes["synthdistill", mode]
        )
        for mode in ("adaptive_w", "constant_w", "inverted_w")
    }
    return (
        "How differently did the arms re-sample? Around the selected epoch their latents moved by "
        f"{radius['adaptive_w']:.2f} (adaptive_w), {radius['constant_w']:.2f} (constant_w) and "
        f"{radius['inverted_w']:.2f} (inverted_w), in units of W and on average. The adaptive radius is "
        "(cos + 1) / 2, and a student of this world agrees with its teacher early. The nearer the first "
        "number is to the second, the more adaptive_w and constant_w are one method; the nearer the third "
        "is to 0, the more inverted_w shows each face twice."
    )


def _why_step_one_matters_little(claim: Finding, outcomes: dict[tuple[str, str], list[Outcome]]) -> str:
    """Measures whether step 1 leaves the student anything better to imitate."""
    (arm,) = (arm for arm in claim.arms if arm.name == "steps 1 and 2")
    config = TrialConfig.model_validate({**arm.settings, "seed": 0})
    teacher = EmbeddedTeacherSettings().load()
    context = MethodContext(
        faces=config.faces,
        generator=config.faces.generator(),
        teacher=teacher,
        batch_size=config.training.batch_size,
        seed=0,
        shard=Shard(),
        device=torch.device("cpu"),
    )
    target = config.method.build(context).target
    adapted, _ = _measure(target, _benchmark(SHARP_PX, None))
    accuracy = {
        name: metrics["benchmark/verification_accuracy"]
        for name, metrics in (("raw", _teacher_outcome(SHARP_PX, None).metrics), ("adapted", adapted))
    }
    return (
        "Does step 1 leave anything better to imitate? On sharp faces of the benchmark the teacher's own "
        f"embedding reaches {100 * accuracy['raw']:.2f} %, the adapted one "
        f"{100 * accuracy['adapted']:.2f} %. Step 1 is to carry a teacher from the private faces that it was "
        "trained on to public ones. Here both are authentic faces of one world, so that there is little to "
        "carry."
    )


def _student_efficiency(outcome: Outcome, size_px: int) -> dict[str, float]:
    """Size and speed of a trained student."""
    student, _ = load_student(outcome.folder / BEST)
    return static_efficiency(student, size_px=size_px) | measured_efficiency(student, size_px=size_px)


@cache
def _benchmark(size_px: int, captured_px: int | None) -> VerificationPairs:
    """The benchmark for students of these faces; drawn once a process."""
    return EmbeddedFacesSettings(size_px=size_px, captured_px=captured_px).benchmark_pairs()


if __name__ == "__main__":
    main()
