"""Two students on one small benchmark, a good one and a bad one."""

import torch
from torch import Tensor

from distill.faces import VerificationPairs

PEOPLE, GROUPS = 40, ("north", "east")


def pairs() -> VerificationPairs:
    """Pairs of people with two images each: a genuine one for each, and impostors of the same group."""
    left, right, group = [], [], []
    for person in range(PEOPLE):
        stranger = (person + 2) % PEOPLE
        left += [2 * person, 2 * person]
        right += [2 * person + 1, 2 * stranger + 1]
        group += [person % 2] * 2
    identity_N = torch.arange(PEOPLE).repeat_interleave(2)
    left_P, right_P = torch.tensor(left), torch.tensor(right)
    return VerificationPairs(
        name="benchmark",
        images_NCHW=torch.zeros(2 * PEOPLE, 3, 2, 2, dtype=torch.uint8),
        left_P=left_P,
        right_P=right_P,
        is_genuine_P=identity_N[left_P] == identity_N[right_P],
        group_P=torch.tensor(group),
        group_names=GROUPS,
        identity_N=identity_N,
    )


def similarity(seed: int, *, margin: float) -> Tensor:
    """Genuine pairs are more alike by `margin` than impostors, in noise."""
    noise_P = torch.randn(2 * PEOPLE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (0.2 * noise_P + margin * pairs().is_genuine_P).clamp(-1, 1)


GOOD, BAD = similarity(0, margin=0.6), similarity(1, margin=0.1)
