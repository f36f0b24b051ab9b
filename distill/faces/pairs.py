"""Verification pairs: are these two images of one person?

N: images, P: pairs
"""

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distill.errors import InputError

NUM_FOLDS = 10


@dataclass(frozen=True, kw_only=True)
class VerificationPairs:
    """Pairs of images in ten contiguous folds.

    Attributes:
        name: Prefix of the metrics measured on it, e.g. `benchmark`.
        images_NCHW: RGB, uint8, of shape (N, 3, H, H).
        left_P, right_P: The two images of each pair, as int64 indices.
        is_genuine_P: Whether both are of one person, bool.
        group_P: Demographic group of each pair, int64; both people belong to it. All zeros without groups.
        group_names: What `group_P` indexes; empty without groups.
        identity_N: Who is on each image, int64; None where a benchmark does not tell.
        digest: SHA-256 of images and pairs.
    """

    name: str
    images_NCHW: Tensor
    left_P: Tensor
    right_P: Tensor
    is_genuine_P: Tensor
    group_P: Tensor
    group_names: tuple[str, ...]
    identity_N: Tensor | None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        content = hashlib.sha256()
        for tensor in (self.images_NCHW, self.left_P, self.right_P, self.is_genuine_P, self.group_P):
            content.update(tensor.contiguous().numpy().tobytes())
        object.__setattr__(self, "digest", content.hexdigest())

    def people(self) -> Tensor:
        """Who is on each image, for what cannot do without.

        Raises:
            InputError: If that is unknown.
        """
        if self.identity_N is None:
            raise InputError(f"{self.name} does not say who is on its images, which this measurement needs")
        return self.identity_N


def pair_up(
    *,
    name: str,
    images_NCHW: Tensor,
    identity_N: Tensor,
    group_N: Tensor,
    group_names: tuple[str, ...],
    pairs_per_fold: int,
    generator: torch.Generator,
) -> VerificationPairs:
    """Draws pairs by the rules of LFW and RFW.

    No person is in two folds; in each fold every group has equally many pairs, half of them genuine;
    impostors are of one group, since telling the groups apart would make them easy; no pair comes twice.

    Args:
        identity_N: Who is on each image. People are dealt to the folds in turn, group by group.
        pairs_per_fold: A multiple of twice the number of groups.

    Raises:
        ValueError: If the people of a fold do not make enough pairs.
    """
    wanted = pairs_per_fold // (2 * len(group_names))
    left, right, is_genuine, group_of_pair = [], [], [], []
    for fold in range(NUM_FOLDS):
        for group in range(len(group_names)):
            people = identity_N[group_N == group].unique()[fold::NUM_FOLDS]
            images = torch.isin(identity_N, people).nonzero().squeeze(1)
            first, second = torch.combinations(images).unbind(1)
            genuine = identity_N[first] == identity_N[second]
            for kind in (genuine, ~genuine):
                candidates = kind.nonzero().squeeze(1)
                if len(candidates) < wanted:
                    raise ValueError(
                        f"pairs_per_fold={pairs_per_fold} needs {wanted} pairs of a kind from each group, "
                        f"{group_names[group]} has {len(candidates)} in fold {fold}"
                    )
                chosen = candidates[torch.randperm(len(candidates), generator=generator)[:wanted]]
                left.append(first[chosen])
                right.append(second[chosen])
                is_genuine.append(kind[chosen] & genuine[chosen])
                group_of_pair.append(torch.full_like(chosen, group))
    return VerificationPairs(
        name=name,
        images_NCHW=images_NCHW,
        left_P=torch.cat(left),
        right_P=torch.cat(right),
        is_genuine_P=torch.cat(is_genuine),
        group_P=torch.cat(group_of_pair),
        group_names=group_names,
        identity_N=identity_N,
    )
