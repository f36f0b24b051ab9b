"""How far the findings could have gone otherwise: students, the people of the benchmark, and intervals.

P: pairs, S: students of an arm, one a seed, K: students of all arms, G: demographic groups, C: all pairs and
then those of each group, R: the benchmark as it is and then its resamples
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.checkpoint import BEST, StudentCard, read_card
from distill.evaluation import Estimate, bootstrap_pairs, percentile_interval
from distill.faces import EmbeddedFacesSettings, VerificationPairs

RESAMPLES = 2000
TEACHER = "teacher"
"""Name of the arm that holds the teacher alone."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of training, of which a student is trained for each seed.

    Attributes:
        name: In tables and plots.
        settings: Of a `TrialConfig`, less the seed.
    """

    name: str
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim of a paper, and the arms that test it.

    Attributes:
        key: Names it in files.
        reference: The arm that the others are compared with.
        arms: The ways of training.
        faces: What their students are measured on.
    """

    key: str
    reference: str
    arms: list[Arm]
    faces: EmbeddedFacesSettings


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One student on the benchmark.

    Attributes:
        metrics: All of `benchmark/`.
        is_right_P: Whether each of its pairs was judged rightly, at thresholds of the other nine folds.
        folder: Of the trained student.
    """

    seed: int
    metrics: dict[str, float]
    is_right_P: Tensor
    folder: Path

    @property
    def card(self) -> StudentCard:
        """What the student's own folder says of its training."""
        return read_card(self.folder / BEST)


def estimate(value_R: Tensor) -> Estimate:
    """The first entry, and the interval of the others."""
    return Estimate(value=value_R[0].item(), interval=percentile_interval(value_R[1:]))


@dataclass(frozen=True, kw_only=True)
class MeasuredArm:
    """The students of an arm on the benchmark as it is and on every resample.

    Attributes:
        accuracy_RSC: Of each student, a fraction.
        share_RS: What each student counts in the arm's mean; sums to 1.
    """

    accuracy_RSC: Tensor
    share_RS: Tensor

    @property
    def accuracy(self) -> Tensor:
        """Mean over the students of their accuracy on all pairs, of shape (R,)."""
        return self._mean(self.accuracy_RSC[:, :, 0])

    @property
    def group_accuracy(self) -> Tensor:
        """Mean over the students of their accuracy on each group's pairs, of shape (R, G)."""
        return (self.share_RS[:, :, None] * self.accuracy_RSC[:, :, 1:]).sum(1)

    @property
    def group_std(self) -> Tensor:
        """Mean over the students of the groups' population standard deviation, of shape (R,)."""
        return self._mean(self.accuracy_RSC[:, :, 1:].std(-1, correction=0))

    @property
    def student_accuracies(self) -> list[float]:
        return self.accuracy_RSC[0, :, 0].tolist()

    @property
    def student_group_stds(self) -> list[float]:
        return self.accuracy_RSC[0, :, 1:].std(-1, correction=0).tolist()

    def _mean(self, value_RS: Tensor) -> Tensor:
        return (self.share_RS * value_RS).sum(1)


def measure(
    arms: Mapping[str, Sequence[Outcome]],
    pairs: VerificationPairs,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, MeasuredArm]:
    """Resamples the people of the benchmark, the same for all arms, and the students of each arm.

    Of S students a resample draws S - 1 with replacement: the variance of their mean is then, on average,
    that of a mean over S seeds. Drawing S would make it too small, by a third for three seeds. Rao and Wu,
    "Resampling Inference with Complex Survey Data", JASA 1988.
    https://doi.org/10.1080/01621459.1988.10478591

    Args:
        arms: The students of each arm, by its name.
    """
    is_right_PK = torch.stack([student.is_right_P for group in arms.values() for student in group], dim=1)
    accuracy_RKC = _resampled_accuracy(is_right_PK, pairs, resamples=resamples, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    sizes = [len(group) for group in arms.values()]
    return {
        name: MeasuredArm(accuracy_RSC=accuracy_RSC, share_RS=_drawn_students(size, resamples, rng))
        for name, size, accuracy_RSC in zip(arms, sizes, accuracy_RKC.split(sizes, dim=1), strict=True)
    }


def _resampled_accuracy(
    is_right_PK: Tensor, pairs: VerificationPairs, *, resamples: int, seed: int
) -> Tensor:
    """Accuracies of shape (R, K, C), float64."""
    member_PG = F.one_hot(pairs.group_P, len(pairs.group_names)).double()
    member_PC = F.pad(member_PG, (1, 0), value=1.0)
    right_PKC = is_right_PK.double()[:, :, None] * member_PC[:, None, :]

    def accuracy(weight_RP: Tensor) -> Tensor:
        right_RKC = (weight_RP @ right_PKC.flatten(1)).unflatten(1, right_PKC.shape[1:])
        return right_RKC / (weight_RP @ member_PC)[:, None, :]

    resampled = bootstrap_pairs(accuracy, pairs, resamples=resamples, seed=seed)
    return torch.cat([accuracy(torch.ones(1, len(member_PC), dtype=torch.float64)), resampled])


def _drawn_students(size: int, resamples: int, rng: torch.Generator) -> Tensor:
    """What each student counts, of shape (R, S): all alike at first, then as often as it is drawn."""
    drawn = torch.randint(size, (resamples, max(1, size - 1)), generator=rng)
    share_RS = F.one_hot(drawn, size).double().mean(1)
    return torch.cat([torch.full((1, size), 1 / size, dtype=torch.float64), share_RS])
