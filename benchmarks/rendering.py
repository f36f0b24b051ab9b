"""What a face of the embedded world costs, against one training step of the smallest student on it.

Run: python -m benchmarks.rendering
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from distill.faces import EmbeddedFacesSettings
from distill.students import BridgeTinySettings

SIZES_PX = (16, 32, 112)
BATCH_SIZE = 128
REPETITIONS = 7


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(size_px: int) -> tuple[float, float]:
    """Median seconds of rendering a batch and of a forward, backward and Adam step, taken in turns."""
    generator = EmbeddedFacesSettings(size_px=size_px).generator()
    student = BridgeTinySettings().build(embedding_dim=128, size_px=size_px)
    optimizer = torch.optim.Adam(student.parameters())
    z, noise = torch.randn(BATCH_SIZE, generator.z_dim), torch.rand(BATCH_SIZE)
    target = torch.zeros(BATCH_SIZE, 128)

    @torch.no_grad()
    def render() -> torch.Tensor:
        return generator.synthesis(generator.mapping(z), noise_B=noise)

    images = render()

    def step() -> None:
        optimizer.zero_grad()
        F.mse_loss(student(images), target).backward()
        optimizer.step()

    step()
    pairs = [(seconds(render), seconds(step)) for _ in range(REPETITIONS)]
    rendering, training = zip(*pairs, strict=True)
    return statistics.median(rendering), statistics.median(training)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"batch {BATCH_SIZE}, one thread, medians of {REPETITIONS}")
    for size_px in SIZES_PX:
        rendering, training = compare(size_px)
        print(
            f"{size_px:>4} px: rendering {1e3 * rendering:7.1f} ms, training step {1e3 * training:7.1f} ms, "
            f"ratio {rendering / training:.2f}"
        )


if __name__ == "__main__":
    main()
