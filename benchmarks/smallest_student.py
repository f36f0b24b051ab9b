"""How many faces of 16 px the smallest student embeds in a second, against what its paper reports.

Ge et al., "Efficient Low-Resolution Face Recognition via Bridge Distillation", IEEE TIP 2020, reports 934
faces a second on a CPU. https://arxiv.org/abs/2409.11786
"""

import torch

from benchmarks.row import Goal, Row
from distill.evaluation import measured_efficiency
from distill.students import BridgeTinySettings

SIZE_PX = 16
PAPER = 934.0
BATCHES = {1: "one by one", 128: "128 at a time"}


def measure(quick: bool) -> list[Row]:
    """One thread, whatever the machine has; eager PyTorch."""
    torch.manual_seed(0)
    student = BridgeTinySettings().build(embedding_dim=128, size_px=SIZE_PX)
    found = [
        measured_efficiency(student, size_px=SIZE_PX, repeats=1 if quick else 5)
        for _ in range(1 if quick else 9)
    ]
    return [
        Row(
            name=f"smallest_student_batch_{size}",
            what=f"the smallest student's inference at {SIZE_PX} px, {said}",
            unit="faces a second",
            ours=(ours := [rates[f"efficiency/faces_per_second_batch_{size}"] for rates in found]),
            other=[PAPER] * len(ours),
            against="the paper, on its CPU",
            goal=Goal(side="at least", bound=3),
            note="one CPU thread of this machine; the paper's was another",
        )
        for size, said in BATCHES.items()
    ]
