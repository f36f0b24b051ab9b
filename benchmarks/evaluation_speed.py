"""What ten-fold verification costs on LFW's 6,000 pairs, against the protocol's plain loop.

The plain loop judges all pairs of nine folds anew at each of 400 thresholds, for each of ten folds. Both
start from distances, and both must find the same accuracies.

Run: python -m benchmarks.evaluation_speed
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from distill.evaluation import ten_fold

NUM_PAIRS = 6_000
REPETITIONS = 9
WANTED_RATIO = 10


def plain_ten_fold(distances: np.ndarray, is_genuine: np.ndarray) -> list[float]:
    """Accuracy of each held-out fold, at the lowest threshold that judges the other nine best."""
    thresholds = np.arange(0, 4, 0.01)
    pairs = np.arange(len(distances))
    accuracies = []
    for held_out in np.array_split(pairs, 10):
        others = np.setdiff1d(pairs, held_out)
        accuracy_of = [
            np.mean((distances[others] < threshold) == is_genuine[others]) for threshold in thresholds
        ]
        best = thresholds[np.argmax(accuracy_of)]
        accuracies.append(float(np.mean((distances[held_out] < best) == is_genuine[held_out])))
    return accuracies


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    is_genuine_P = torch.arange(NUM_PAIRS) % 2 == 0
    centre_P = torch.where(is_genuine_P, 1.0, 1.8)
    distance_P = (centre_P + 0.3 * torch.randn(NUM_PAIRS)).clamp(0, 4).double()
    distances, is_genuine = distance_P.numpy(), is_genuine_P.numpy()
    if ten_fold(distance_P, is_genuine_P).accuracies.tolist() != plain_ten_fold(distances, is_genuine):
        raise AssertionError("the two ways find different accuracies")

    taken = [
        (
            seconds(lambda: ten_fold(distance_P, is_genuine_P)),
            seconds(lambda: plain_ten_fold(distances, is_genuine)),
        )
        for _ in range(REPETITIONS)
    ]
    ours, plain = (statistics.median(column) for column in zip(*taken, strict=True))
    print(f"{NUM_PAIRS:,} pairs, one thread, medians of {REPETITIONS}, equal accuracies")
    print(
        f"ten_fold {1e3 * ours:.2f} ms, plain loop {1e3 * plain:.1f} ms, "
        f"ratio {plain / ours:.0f} (at least {WANTED_RATIO} wanted)"
    )


if __name__ == "__main__":
    main()
