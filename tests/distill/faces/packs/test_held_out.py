"""Pairs of people who were held out of training: the rules, how many there are, and what is read for them."""

import hashlib

import pytest
import torch
from torch import Tensor

from distill.errors import InputError
from distill.faces import LabelledFaces, VerificationPairs
from distill.faces.degrade import captured
from distill.faces.packs import held_out_facts, held_out_pairs
from distill.faces.packs.held_out import IMAGES_PER_PERSON
from distill.faces.pairs import NUM_FOLDS
from distill.faces.pixels import as_bytes, as_floats
from distill.faces.store import ImageStore

SIZE = 16


class NumberedStore(ImageStore):
    """Images that show their own number, of which some cannot be read; it remembers what was asked for."""

    def __init__(self, number: int, *, damaged: tuple[int, ...] = ()):
        self.number, self.damaged, self.asked = number, set(damaged), set()
        self.digest = hashlib.sha256(repr((number, damaged)).encode()).hexdigest()

    def __len__(self) -> int:
        return self.number

    def read(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        self.asked |= set(index_B.tolist())
        images = torch.zeros(len(index_B), 3, SIZE, SIZE, dtype=torch.uint8)
        images[:, 0], images[:, 1] = (index_B // 256)[:, None, None], (index_B % 256)[:, None, None]
        readable_B = torch.tensor([index not in self.damaged for index in index_B.tolist()])
        images[~readable_B] = 0
        return images, readable_B


def people(
    sizes: list[int],
    groups: list[int] | None = None,
    *,
    names: tuple[str, ...] = (),
    damaged: tuple[int, ...] = (),
) -> LabelledFaces:
    """So many images of each person, who is of that group."""
    label_N = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return LabelledFaces(
        images=NumberedStore(sum(sizes), damaged=damaged),
        label_N=label_N,
        group_N=torch.tensor(groups or [0] * len(sizes))[label_N],
        authentic_N=torch.ones(len(label_N), dtype=torch.bool),
        group_names=names,
    )


def numbers(pairs: VerificationPairs) -> Tensor:
    """The number that each image shows."""
    return pairs.images_NCHW[:, 0, 0, 0].long() * 256 + pairs.images_NCHW[:, 1, 0, 0]


MANY = {
    "many alike": people([8] * 900),
    "few with two": people([2] * 23),
    "uneven": people([1, 2, 9, 3, 1, 5] * 20),
    "three groups": people([2, 4, 7, 3] * 40, [0, 1, 2, 1] * 40, names=("a", "b", "c")),
}


@pytest.fixture(scope="module", params=list(MANY))
def drawn(request: pytest.FixtureRequest) -> tuple[LabelledFaces, VerificationPairs]:
    faces = MANY[request.param]
    return faces, held_out_pairs(faces, name="validation", size_px=SIZE)


Drawn = tuple[LabelledFaces, VerificationPairs]


def test_images_are_those_of_the_people_they_are_said_to_be(drawn: Drawn) -> None:
    faces, pairs = drawn
    assert torch.equal(faces.label_N[numbers(pairs)], pairs.people())
    same = pairs.people()[pairs.left_P] == pairs.people()[pairs.right_P]
    assert torch.equal(same, pairs.is_genuine_P)
    assert torch.equal(faces.group_N[numbers(pairs)][pairs.left_P], pairs.group_P)
    assert torch.equal(faces.group_N[numbers(pairs)][pairs.right_P], pairs.group_P)
    assert pairs.group_names == faces.group_names


def test_each_fold_has_as_many_pairs_of_each_kind_and_group(drawn: Drawn) -> None:
    _, pairs = drawn
    num_kinds = 2 * max(1, len(pairs.group_names))
    for groups, is_genuine in zip(
        pairs.group_P.tensor_split(NUM_FOLDS), pairs.is_genuine_P.tensor_split(NUM_FOLDS), strict=True
    ):
        counts = torch.bincount(groups * 2 + is_genuine, minlength=num_kinds)
        assert counts.tolist() == [len(pairs.left_P) // NUM_FOLDS // num_kinds] * num_kinds


def test_no_person_is_in_two_folds_and_no_pair_comes_twice(drawn: Drawn) -> None:
    _, pairs = drawn
    sides_P2 = torch.stack([pairs.left_P, pairs.right_P], dim=1)
    folds = [set(pairs.people()[fold].flatten().tolist()) for fold in sides_P2.tensor_split(NUM_FOLDS)]
    assert sum(map(len, folds)) == len(set.union(*folds))
    assert (pairs.left_P != pairs.right_P).all()
    assert len(sides_P2.sort(1).values.unique(dim=0)) == len(sides_P2)


def test_only_what_is_shown_is_read_and_each_image_once(drawn: Drawn) -> None:
    faces, pairs = drawn
    assert isinstance(faces.images, NumberedStore)
    shown = numbers(pairs)
    assert faces.images.asked == set(shown.tolist())
    assert len(shown.unique()) == len(shown)
    assert set(range(len(shown))) == set(torch.cat([pairs.left_P, pairs.right_P]).tolist())
    assert int(torch.bincount(pairs.people()).max()) <= IMAGES_PER_PERSON


def test_facts_agree_with_what_is_drawn(drawn: Drawn) -> None:
    faces, pairs = drawn
    facts = held_out_facts(faces.label_N, faces.group_N, faces.group_names, name="validation")
    assert facts.group_names == pairs.group_names
    assert facts.num_impostors == int((~pairs.is_genuine_P).sum())


@pytest.mark.parametrize(
    ("faces", "pairs_per_fold"),
    [
        (MANY["many alike"], 600),
        (people([2] * 20), 2 * 2),  # two people a fold, of a genuine pair each
        (people([3] * 20), 6 * 2),
        (people([6] * 10 + [2] * 10), 12 * 2),  # 16 genuine, but six times two impostors
        (people([6] * 20), 15 * 2 * 2),
        (people([40] * 20), 15 * 2 * 2),  # six images of each are taken
        (people([1] * 500 + [3] * 20), 6 * 2),
        (people([6] * 40, [0, 1] * 20, names=("a", "b")), 15 * 2 * 2 * 2),
        (people([6] * 60, [0, 1, 0] * 20, names=("a", "b")), 15 * 2 * 2 * 2),  # the smaller group decides
    ],
)
def test_as_many_pairs_are_drawn_as_every_fold_and_group_can_make(
    faces: LabelledFaces, pairs_per_fold: int
) -> None:
    facts = held_out_facts(faces.label_N, faces.group_N, faces.group_names, name="validation")
    assert facts.num_impostors == NUM_FOLDS * pairs_per_fold // 2


@pytest.mark.parametrize(("at_most", "pairs_per_fold"), [(2, 2), (7, 6), (100, 100)])
def test_no_more_pairs_are_drawn_than_are_asked_for(at_most: int, pairs_per_fold: int) -> None:
    pairs = held_out_pairs(
        MANY["many alike"], name="validation", size_px=SIZE, pairs_per_fold_at_most=at_most
    )
    assert len(pairs.left_P) == NUM_FOLDS * pairs_per_fold


def test_the_same_people_make_the_same_pairs(drawn: Drawn) -> None:
    faces, pairs = drawn
    assert held_out_pairs(faces, name="validation", size_px=SIZE).digest == pairs.digest


@pytest.mark.parametrize(
    ("faces", "told"),
    [
        (people([2] * 19), "validation pairs need 20 held-out .* images or more, and the set has 19"),
        (people([2] * 19 + [1] * 100), "and the set has 19"),
        (people([1] * 100), "and the set has 0"),
        (
            people([4] * 47, [0] * 28 + [1] * 19, names=("african", "asian")),
            "need 20 held-out identities with two images or more in each group, and asian has 19",
        ),
        (people([4] * 47, names=("african", "asian")), "in each group, and asian has 0"),
    ],
)
def test_too_few_people_are_told(faces: LabelledFaces, told: str) -> None:
    with pytest.raises(InputError, match=told):
        held_out_facts(faces.label_N, faces.group_N, faces.group_names, name="validation")
    with pytest.raises(InputError, match=told):
        held_out_pairs(faces, name="validation", size_px=SIZE)


def test_a_limit_below_a_pair_of_each_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="must be at least two for each group, got 5"):
        held_out_pairs(MANY["three groups"], name="v", size_px=SIZE, pairs_per_fold_at_most=5)


def test_what_cannot_be_read_is_not_shown() -> None:
    damaged = tuple(range(0, 8 * 40, 3))
    pairs = held_out_pairs(people([8] * 40, damaged=damaged), name="validation", size_px=SIZE)
    assert not set(damaged) & set(numbers(pairs).tolist())
    assert (pairs.left_P != pairs.right_P).all()
    labels = numbers(pairs) // 8
    assert torch.equal(labels, pairs.people())
    assert len(numbers(pairs).unique()) == len(numbers(pairs))


def test_a_person_of_whom_nothing_can_be_read_is_told() -> None:
    with pytest.raises(InputError, match="none of the 2 images of class 3 can be read"):
        held_out_pairs(people([2] * 20, damaged=(6, 7)), name="validation", size_px=SIZE)


def test_larger_images_are_reduced_as_a_camera_reduces_them() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (60, 3, 32, 32), generator=rng, dtype=torch.uint8)
    faces = LabelledFaces(
        images=images,
        label_N=torch.arange(20).repeat_interleave(3),
        group_N=torch.zeros(60, dtype=torch.int64),
        authentic_N=torch.ones(60, dtype=torch.bool),
        group_names=(),
    )
    reduced = held_out_pairs(faces, name="validation", size_px=SIZE)
    sharp = held_out_pairs(faces, name="validation", size_px=32)
    assert torch.equal(reduced.left_P, sharp.left_P)
    assert torch.equal(reduced.images_NCHW, as_bytes(captured(as_floats(sharp.images_NCHW), SIZE)))
    assert all(any(torch.equal(image, own) for own in images) for image in sharp.images_NCHW)
