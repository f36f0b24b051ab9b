"""SynthDistill at its paper's size on a GPU, against the published loop and against the hardware's floor.

Otroshi Shahreza et al., "SynthDistill", IJCB 2023, https://arxiv.org/abs/2308.14852: a StyleGAN2 of 256 px
draws, an IResNet-100 teaches, MobileFaceNet learns, at 112 px; 42 million faces in all. Weights are random,
which changes no time. The floor is what the multiply-adds of a face would take at the rate of a large product
of bfloat16 matrices, measured here.
"""

import hashlib
import pickle
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import safetensors.torch
import torch
from torch import nn

from benchmarks.gpu import device_for
from benchmarks.record_reading import SIZE_PX, draw_jpegs
from benchmarks.row import Goal, Row, in_turns
from benchmarks.training_loop import OtherLoop, OurLoop
from distill.config import TrialConfig
from distill.faces.stylegan2.load import GeneratorCard
from distill.faces.stylegan2.network import Architecture, Network
from distill.students import IResNetSettings, MbfSettings

BATCHES = (128, 256, 512, 1024)
"""The paper's first."""
PAPER_FACES = 42e6
MACS_A_FACE = 27.5e9
"""Of generator, teacher and student together."""
MATRIX = 8192


def measure(quick: bool) -> list[Row]:
    """At the paper's size on a GPU; `quick` takes small networks, on whatever there is.

    Raises:
        RuntimeError: If there is no GPU.
    """
    device = device_for(quick=quick)
    steps, repetitions = (2, 1) if quick else (40, 5)
    batches = (4,) if quick else BATCHES
    with tempfile.TemporaryDirectory() as folder:
        materials = _materials(Path(folder), toy=quick)

        def trial(batch: int, precision: str) -> TrialConfig:
            training = {"epochs": 1000, "faces_per_epoch": steps * batch, "batch_size": batch}
            return TrialConfig.model_validate({**materials, "training": training | {"precision": precision}})

        def compare(batch: int) -> tuple[list[float], list[float]]:
            ours = OurLoop(trial(batch, "bfloat16"))
            plain = OtherLoop(trial(batch, "float32"), tuned=False, device=device)
            for loop in (ours, plain):  # to warm up
                loop.train_epoch()
            faces = steps * batch
            return in_turns(lambda: _rate(ours, faces), lambda: _rate(plain, faces), repetitions=repetitions)

        found = {batch: compare(batch) for batch in batches}
    best = max(batches, key=lambda batch: median(found[batch][0]))
    ours = found[best][0]
    hours = PAPER_FACES / median(ours) / 3600
    return [
        *(_against_plain(batch, *found[batch]) for batch in dict.fromkeys((batches[0], best))),
        Row(
            name="synthdistill_gpu_floor",
            what=f"the same, {best} at a time, which is fastest",
            unit="images a second",
            ours=ours,
            other=[_floor(device, quick=quick) for _ in ours],
            against="27.5 GMAC an image at the rate of bfloat16 matrices",
            goal=Goal(side="at least", bound=0.35),
            note=f"on {_name(device)}; the paper's 42 M faces would take {hours:.1f} GPU-hours",
        ),
    ]


def _against_plain(batch: int, ours: list[float], plain: list[float]) -> Row:
    return Row(
        name=f"synthdistill_gpu_{batch}",
        what=f"SynthDistill at the paper's size on a GPU, {batch} at a time",
        unit="images a second",
        ours=ours,
        other=plain,
        against="the published loop, float32",
        goal=Goal(side="at least", bound=6),
        note="StyleGAN2 256 px, IResNet-100, MobileFaceNet, 112 px, random weights; ours with "
        "training.precision: bfloat16",
    )


def _rate(loop: OurLoop | OtherLoop, faces: int) -> float:
    """Images a second of an epoch, at whose end the loss is read: nothing is on its way any more."""
    began = time.perf_counter()
    loop.train_epoch()
    return faces / (time.perf_counter() - began)


def _floor(device: torch.device, *, quick: bool) -> float:
    """Images a second at the rate of a product of large bfloat16 matrices."""
    size, times = (256, 2) if quick else (MATRIX, 50)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = a @ b
    product[0, 0].item()
    began = time.perf_counter()
    for _ in range(times):
        torch.mm(a, b, out=product)
    product[0, 0].item()  # waits for all of them
    seconds = (time.perf_counter() - began) / times
    return size**3 / seconds / MACS_A_FACE


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU, at a toy size"


def _materials(folder: Path, *, toy: bool) -> dict[str, Any]:
    """Files as users bring them, of networks with random weights, and the settings that name them."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"z_dim": 16, "w_dim": 16, "channel_base": 1024, "channel_max": 16}
    _write_generator(
        folder / "generator.safetensors",
        Architecture(resolution=32 if toy else 256, conv_clamp=256, **(small if toy else {})),
    )
    student = MbfSettings() if toy else IResNetSettings(depth=100)
    teacher = student.build(embedding_dim=512, size_px=SIZE_PX)
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.num_batches_tracked.fill_(1)  # pyright: ignore[reportOptionalMemberAccess] - they count
    torch.save(teacher.state_dict(), folder / "teacher.pth")
    (folder / "pairs.bin").write_bytes(_pairs())
    pack = {"path": str(folder / "pairs.bin")}
    faces = {"name": "stylegan2", "weights": str(folder / "generator.safetensors"), "size_px": SIZE_PX}
    return {
        "faces": {**faces, "crop": "none" if toy else "ffhq", "validation": pack, "benchmark": pack},
        # Random weights do not find a face like its mirror image.
        "teacher": {
            "name": "pretrained",
            "weights": str(folder / "teacher.pth"),
            "family": "mbf" if toy else "iresnet",
            "mirror_margin": 0.0,
        },
        "student": {"name": "mobilefacenet"},
        "method": {"name": "synthdistill"},
        "schedule": {"name": "constant"},
    }


def _write_generator(path: Path, architecture: Architecture) -> None:
    content = safetensors.torch.save(Network(architecture).state_dict())
    path.write_bytes(content)
    card = GeneratorCard(
        architecture=architecture, source_sha256="0" * 64, sha256=hashlib.sha256(content).hexdigest()
    )
    path.with_suffix(".json").write_text(card.model_dump_json())


def _pairs() -> bytes:
    """A pack of InsightFace, of pairs of one person and pairs of two. Only its form matters."""
    files, _ = draw_jpegs(num_classes=4)
    half = len(files) // 2
    genuine = files  # neighbours are of one person
    impostors = [file for pair in zip(files[:half], files[half:], strict=True) for file in pair]
    return pickle.dumps((genuine + impostors, [True] * half + [False] * half))
