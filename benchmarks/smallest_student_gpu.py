"""How many faces of 16 px the smallest student embeds in a second on a GPU, against what its paper reports.

Ge et al., "Efficient Low-Resolution Face Recognition via Bridge Distillation", IEEE TIP 2020, reports 14,705
faces a second on a GPU. https://arxiv.org/abs/2409.11786
"""

import time

import torch

from benchmarks.gpu import device_for
from benchmarks.row import Goal, Row
from distill.students import BridgeTinySettings
from distill.training.parts import IMAGE_LAYOUT, moved

SIZE_PX = 16
PAPER = 14_705.0


def measure(quick: bool) -> list[Row]:
    """In bfloat16; `quick` takes few faces, on whatever there is.

    Raises:
        RuntimeError: If there is no GPU.
    """
    device = device_for(quick=quick)
    batch_size, times, repetitions = (64, 2, 1) if quick else (8192, 50, 9)
    torch.manual_seed(0)
    student = moved(BridgeTinySettings().build(embedding_dim=128, size_px=SIZE_PX).eval(), device)
    images = torch.randn(batch_size, 3, SIZE_PX, SIZE_PX, device=device).contiguous(
        memory_format=IMAGE_LAYOUT
    )

    def faces_per_second() -> float:
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16):
            embedding_BD = student(images)
            embedding_BD[0, 0].item()
            began = time.perf_counter()
            for _ in range(times):
                embedding_BD = student(images)
            embedding_BD[0, 0].item()  # waits for all of them
            return batch_size * times / (time.perf_counter() - began)

    ours = [faces_per_second() for _ in range(repetitions)]
    return [
        Row(
            name="smallest_student_gpu",
            what=f"the smallest student's inference at {SIZE_PX} px on a GPU, {batch_size:,} at a time",
            unit="faces a second",
            ours=ours,
            other=[PAPER] * len(ours),
            against="the paper, on its GPU",
            goal=Goal(side="at least", bound=20),
            note="images and embeddings stay on the GPU; the paper's was another",
        )
    ]
