"""Pairs of images that are still encoded: what a benchmark is before anything is decoded.

N: distinct images, P: pairs
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distill.errors import InputError
from distill.faces.packs.images import decode_all
from distill.faces.pairs import NUM_FOLDS, VerificationPairs
from distill.faces.settings import PairFacts


class Face(NamedTuple):
    """One encoded image.

    Attributes:
        source: Its bytes, or the file that holds them.
        title: What it is called in messages.
        person: Who is on it; None where the benchmark does not tell.
    """

    source: bytes | Path
    title: str
    person: str | None = None


class Pair(NamedTuple):
    """Two encoded images, and the demographic group of both people; empty without groups."""

    left: Face
    right: Face
    is_genuine: bool
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class PairIndex:
    """`VerificationPairs` of encoded images, each distinct one once."""

    faces: list[Face]
    left_P: Tensor
    right_P: Tensor
    is_genuine_P: Tensor
    group_P: Tensor
    group_names: tuple[str, ...]

    def facts(self, *, what: str) -> PairFacts:
        """What is known before an image is decoded.

        Args:
            what: What the pairs come from, for messages.

        Raises:
            InputError: If one kind of pairs is missing: nothing can be ranked on them.
        """
        genuine = int(self.is_genuine_P.sum())
        if genuine in (0, len(self.is_genuine_P)):
            raise InputError(
                f"{what} must have genuine pairs and impostors to rank students on, and has "
                f"{genuine:,} genuine and {len(self.is_genuine_P) - genuine:,} impostors"
            )
        return PairFacts(group_names=self.group_names, num_impostors=int((~self.is_genuine_P).sum()))

    def decoded(self, *, name: str, size_px: int) -> VerificationPairs:
        """Decodes every image.

        Raises:
            InputError: If one cannot be decoded: a benchmark without it would be another benchmark.
        """
        people = [face.person for face in self.faces]
        number_of = {person: number for number, person in enumerate(dict.fromkeys(people))}
        return VerificationPairs(
            name=name,
            images_NCHW=decode_all([(face.source, face.title) for face in self.faces], size_px=size_px),
            left_P=self.left_P,
            right_P=self.right_P,
            is_genuine_P=self.is_genuine_P,
            group_P=self.group_P,
            group_names=self.group_names,
            identity_N=None if None in number_of else torch.tensor([number_of[person] for person in people]),
        )


def index_pairs(pairs: Sequence[Pair], *, what: str) -> PairIndex:
    """Numbers the distinct images, and puts the pairs in the order of the ten folds.

    Without groups the order stays. With groups, each one is cut into ten folds in its own order, and fold k
    of all pairs holds fold k of every group, so that both protocols hold out the same pairs together. That is
    exact where each group has a multiple of ten pairs, as RFW's have. Otherwise the folds of all pairs begin
    a little early or late, by less than three pairs for each group.

    Args:
        what: What the pairs come from, for messages.

    Raises:
        InputError: If there are fewer than ten pairs, in all or in a group, or a group misses one kind.
    """
    groups = sorted({pair.group for pair in pairs}) or [""]
    own = [[pair for pair in pairs if pair.group == group] for group in groups]
    for group, members in zip(groups, own, strict=True):
        genuine = sum(pair.is_genuine for pair in members)
        if len(members) < NUM_FOLDS or (group and genuine in (0, len(members))):
            raise InputError(
                f"{what} must have {NUM_FOLDS} pairs or more"
                f"{group and ' in each group, some genuine and some impostors'}: {group or 'it'} has "
                f"{genuine:,} genuine and {len(members) - genuine:,} impostors"
            )
    folds = [torch.arange(len(members)).tensor_split(NUM_FOLDS) for members in own]
    ordered = [
        (group, own[group][place])
        for fold in range(NUM_FOLDS)
        for group in range(len(groups))
        for place in folds[group][fold].tolist()
    ]
    faces: dict[bytes | Path, Face] = {}
    for _, pair in ordered:
        faces.setdefault(pair.left.source, pair.left)
        faces.setdefault(pair.right.source, pair.right)
    number_of = {source: number for number, source in enumerate(faces)}
    return PairIndex(
        faces=list(faces.values()),
        left_P=torch.tensor([number_of[pair.left.source] for _, pair in ordered]),
        right_P=torch.tensor([number_of[pair.right.source] for _, pair in ordered]),
        is_genuine_P=torch.tensor([pair.is_genuine for _, pair in ordered]),
        group_P=torch.tensor([group for group, _ in ordered]),
        group_names=() if groups == [""] else tuple(groups),
    )
