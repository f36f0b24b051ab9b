"""Rules of the verification pairs of the embedded world, and of any that `pair_up` makes."""

import pytest
import torch

from distill.faces import EmbeddedFacesSettings, VerificationPairs
from distill.faces.embedded import BENCHMARK_IDENTITIES, VALIDATION_IDENTITIES
from distill.faces.pairs import NUM_FOLDS, pair_up

SETTINGS = EmbeddedFacesSettings(size_px=16)


@pytest.fixture(scope="module", params=["validation", "benchmark"])
def pairs(request: pytest.FixtureRequest) -> VerificationPairs:
    return getattr(SETTINGS, f"{request.param}_pairs")()


def test_sizes(pairs: VerificationPairs) -> None:
    images, num_pairs = {"validation": (960, 3200), "benchmark": (2400, 6000)}[pairs.name]
    assert pairs.images_NCHW.shape == (images, 3, 16, 16)
    assert pairs.images_NCHW.dtype == torch.uint8
    assert (
        len(pairs.left_P) == len(pairs.right_P) == len(pairs.group_P) == len(pairs.is_genuine_P) == num_pairs
    )


def test_a_pair_is_genuine_exactly_when_both_images_are_of_one_person(pairs: VerificationPairs) -> None:
    same = pairs.people()[pairs.left_P] == pairs.people()[pairs.right_P]
    assert torch.equal(same, pairs.is_genuine_P)


def test_each_fold_is_half_genuine_and_equally_many_of_each_group(pairs: VerificationPairs) -> None:
    for groups, is_genuine in zip(
        pairs.group_P.chunk(NUM_FOLDS), pairs.is_genuine_P.chunk(NUM_FOLDS), strict=True
    ):
        counts = torch.bincount(groups * 2 + is_genuine, minlength=8)
        assert counts.unique().numel() == 1


def test_no_person_is_in_two_folds(pairs: VerificationPairs) -> None:
    folds = torch.stack([pairs.people()[pairs.left_P], pairs.people()[pairs.right_P]]).chunk(NUM_FOLDS, dim=1)
    people = [set(fold.flatten().tolist()) for fold in folds]
    assert sum(map(len, people)) == len(set.union(*people))


def test_impostors_are_of_one_group(pairs: VerificationPairs) -> None:
    start = {"validation": VALIDATION_IDENTITIES, "benchmark": BENCHMARK_IDENTITIES}[pairs.name].start
    world = SETTINGS.generator()
    world.identities = range(start, start + 1_000_000)
    for side in (pairs.left_P, pairs.right_P):
        assert torch.equal(world.group_of_classes(pairs.people()[side] - start), pairs.group_P)


def test_no_pair_comes_twice_and_none_is_an_image_with_itself(pairs: VerificationPairs) -> None:
    assert (pairs.left_P < pairs.right_P).all()
    assert len(set(zip(pairs.left_P.tolist(), pairs.right_P.tolist(), strict=True))) == len(pairs.left_P)


def test_people_come_from_their_own_lot(pairs: VerificationPairs) -> None:
    lot = {"validation": VALIDATION_IDENTITIES, "benchmark": BENCHMARK_IDENTITIES}[pairs.name]
    assert int(pairs.people().min()) >= lot.start
    assert int(pairs.people().max()) < lot.stop


def test_the_training_domain_does_not_change_the_pairs() -> None:
    other = EmbeddedFacesSettings(size_px=16, domain="authentic").validation_pairs()
    assert other.digest == SETTINGS.validation_pairs().digest


def test_the_digest_sees_one_flipped_pair() -> None:
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)

    def digest(is_genuine: bool) -> str:
        zero, one = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
        return VerificationPairs(
            name="tiny",
            images_NCHW=images,
            left_P=zero,
            right_P=one,
            is_genuine_P=torch.tensor([is_genuine]),
            group_P=zero,
            group_names=("all",),
            identity_N=torch.tensor([0, 0]),
        ).digest

    assert digest(True) != digest(False)


def test_too_few_people_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"pairs_per_fold=8 needs 4 pairs of a kind from each group, only has 2"
    ):
        pair_up(
            name="tiny",
            images_NCHW=torch.zeros(40, 3, 16, 16, dtype=torch.uint8),
            identity_N=torch.arange(20).repeat_interleave(2),
            group_N=torch.zeros(40, dtype=torch.int64),
            group_names=("only",),
            pairs_per_fold=8,
            generator=torch.Generator(),
        )
