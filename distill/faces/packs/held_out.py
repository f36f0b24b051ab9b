"""Pairs of people of a labelled set who were held out of training.

N: images of the set, M: those that may be shown, C: people
"""

import dataclasses

import torch
from torch import Tensor

from distill.errors import InputError
from distill.faces.degrade import captured
from distill.faces.labelled import LabelledFaces
from distill.faces.pairs import NUM_FOLDS, VerificationPairs, pair_up
from distill.faces.pixels import as_bytes, as_floats
from distill.faces.settings import PairFacts

PAIRS_PER_FOLD = 600
IMAGES_PER_PERSON = 6
SEED = 20_070_708  # fixed: every trial is ranked on the same pairs
READ_BATCH = 256
MIN_PEOPLE = 2 * NUM_FOLDS
"""With two images each, in each group: an impostor pair takes two people, and no one is in two folds."""


def held_out_facts(
    label_N: Tensor,
    group_N: Tensor,
    group_names: tuple[str, ...],
    *,
    name: str,
    pairs_per_fold_at_most: int = PAIRS_PER_FOLD,
) -> PairFacts:
    """The facts of `held_out_pairs`, without its images.

    Args:
        label_N, group_N, group_names: As in `LabelledFaces`.

    Raises:
        InputError, ValueError: As `held_out_pairs`.
    """
    _, pairs_per_fold = _candidates(
        label_N,
        group_N,
        group_names,
        readable_N=torch.ones(len(label_N), dtype=torch.bool),
        name=name,
        pairs_per_fold_at_most=pairs_per_fold_at_most,
    )
    return PairFacts(group_names=group_names, num_impostors=NUM_FOLDS * pairs_per_fold // 2)


def held_out_pairs(
    faces: LabelledFaces, *, name: str, size_px: int, pairs_per_fold_at_most: int = PAIRS_PER_FOLD
) -> VerificationPairs:
    """Draws pairs by the rules of `pairs.pair_up`: as many as every fold and group can make.

    A fold shows at most as many people of a group as it has genuine pairs of it, and at most six images of
    each, so that little is read. What cannot be read is left out, and the pairs are drawn again. They are a
    function of the arguments alone.

    Args:
        faces: People whom no training has seen, of `size_px` or larger.
        name: Prefix of the metrics measured on them.
        pairs_per_fold_at_most: At least two for each group.

    Raises:
        InputError: If a group has fewer than 20 people with two images, or the images cannot be read.
        ValueError: If `pairs_per_fold_at_most` is too small.
    """
    readable_N = torch.ones(len(faces), dtype=torch.bool)
    while True:
        shown_M, pairs_per_fold = _candidates(
            faces.label_N,
            faces.group_N,
            faces.group_names,
            readable_N=readable_N,
            name=name,
            pairs_per_fold_at_most=pairs_per_fold_at_most,
        )
        pairs = pair_up(
            name=name,
            images_NCHW=torch.empty(len(shown_M), 3, 0, 0, dtype=torch.uint8),  # read once they are known
            identity_N=faces.label_N[shown_M],
            group_N=faces.group_N[shown_M],
            group_names=faces.group_names or ("all",),
            pairs_per_fold=pairs_per_fold,
            generator=torch.Generator().manual_seed(SEED),
        )
        used, sides_2P = torch.stack([pairs.left_P, pairs.right_P]).unique(return_inverse=True)
        wanted = shown_M[used]
        images, found = _read(faces, wanted, size_px=size_px)
        if torch.equal(found, wanted):
            return dataclasses.replace(
                pairs,
                images_NCHW=images,
                left_P=sides_2P[0],
                right_P=sides_2P[1],
                group_names=faces.group_names,
                identity_N=faces.label_N[wanted],
            )
        readable_N[wanted[found != wanted]] = False


def _candidates(
    label_N: Tensor,
    group_N: Tensor,
    group_names: tuple[str, ...],
    *,
    readable_N: Tensor,
    name: str,
    pairs_per_fold_at_most: int,
) -> tuple[Tensor, int]:
    """Indices of the images that may be shown, of shape (M,), and how many pairs a fold they make."""
    pairs_of_a_kind = pairs_per_fold_at_most // (2 * max(1, len(group_names)))
    if pairs_of_a_kind < 1:
        raise ValueError(
            f"pairs_per_fold_at_most must be at least two for each group, got {pairs_per_fold_at_most}"
        )
    seeded = torch.Generator().manual_seed(SEED)
    order_M = torch.randperm(len(label_N), generator=seeded)
    order_M = order_M[readable_N[order_M]]
    order_M = order_M[label_N[order_M].argsort(stable=True)]
    label_C, person_M, count_C = label_N[order_M].unique_consecutive(return_inverse=True, return_counts=True)
    first_C = count_C.cumsum(0) - count_C
    place_M = torch.arange(len(order_M)) - first_C[person_M]
    group_C = group_N[order_M[first_C]]
    count_C = count_C.clamp(max=IMAGES_PER_PERSON)

    is_shown_C = torch.zeros(len(label_C), dtype=torch.bool)
    for group, group_name in enumerate(group_names or ("",)):
        people = ((group_C == group) & (count_C >= 2)).nonzero().squeeze(1)
        if len(people) < MIN_PEOPLE:
            raise InputError(
                f"{name} pairs need {MIN_PEOPLE} held-out identities with two images or more"
                f"{group_name and ' in each group'}, and {group_name or 'the set'} has {len(people)}"
            )
        number = NUM_FOLDS * max(2, pairs_of_a_kind)
        people = people[torch.randperm(len(people), generator=seeded)[:number]].sort().values
        is_shown_C[people] = True
        for fold in range(NUM_FOLDS):
            images = count_C[people[fold::NUM_FOLDS]]  # dealt as `pair_up` deals them
            genuine = int((images * (images - 1) // 2).sum())
            impostor = int(images.sum() * (images.sum() - 1) // 2) - genuine
            pairs_of_a_kind = min(pairs_of_a_kind, genuine, impostor)
    shown_M = order_M[is_shown_C[person_M] & (place_M < IMAGES_PER_PERSON)]
    return shown_M.sort().values, pairs_of_a_kind * 2 * max(1, len(group_names))


def _read(faces: LabelledFaces, index_B: Tensor, *, size_px: int) -> tuple[Tensor, Tensor]:
    """Images of `size_px`, and the indices of those that were read in their places."""
    images, found = [], []
    for batch in index_B.split(READ_BATCH):
        faces_BCHW, read_B = faces.read(batch)
        if faces_BCHW.shape[-1] > size_px:
            faces_BCHW = as_bytes(captured(as_floats(faces_BCHW), size_px))
        images.append(faces_BCHW)
        found.append(read_B)
    return torch.cat(images), torch.cat(found)
