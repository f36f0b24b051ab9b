"""Identification against worked examples and probe-by-probe searches."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.evaluation import embed_pairs, evaluate_identification, rank_accuracy, tpir_at_fpir
from distill.faces import VerificationPairs
from distill.students import BridgeTinySettings


def at_degrees(*degrees: float) -> Tensor:
    """Unit vectors in the plane: the nearer in angle, the more alike."""
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def random_people(num_images: int, num_people: int, *, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit embeddings around one direction a person, in random order of people."""
    rng = torch.Generator().manual_seed(seed)
    identity_N = torch.randint(num_people, (num_images,), generator=rng)
    people = torch.randn(num_people, 8, generator=rng)
    noisy_ND = people[identity_N] + noise * torch.randn(num_images, 8, generator=rng)
    return F.normalize(noisy_ND).double(), 5 * identity_N + 3


def first_images(identities: list[int]) -> dict[int, int]:
    """The gallery: image by person."""
    gallery: dict[int, int] = {}
    for image, person in enumerate(identities):
        gallery.setdefault(person, image)
    return gallery


def naive_rank_accuracy(unit_ND: Tensor, identity_N: Tensor, rank: int) -> float:
    identities = identity_N.tolist()
    gallery = first_images(identities)
    hits = []
    for image, person in enumerate(identities):
        if image == gallery[person]:
            continue
        by_similarity = sorted(gallery, key=lambda other: -float(unit_ND[image] @ unit_ND[gallery[other]]))
        hits.append(person in by_similarity[:rank])
    return sum(hits) / len(hits)


def naive_open_set(unit_ND: Tensor, identity_N: Tensor, fpir: float) -> tuple[float, float]:
    """TPIR and realised FPIR with every second person left out, threshold by threshold."""
    identities = identity_N.tolist()
    left_out = sorted(set(identities))[1::2]
    gallery = {p: image for p, image in first_images(identities).items() if p not in left_out}
    mated, non_mated = [], []
    for image, person in enumerate(identities):
        if image in gallery.values():
            continue
        top = max(gallery, key=lambda other: float(unit_ND[image] @ unit_ND[gallery[other]]))
        score = float(unit_ND[image] @ unit_ND[gallery[top]])
        non_mated.append(score) if person in left_out else mated.append((score, top == person))
    for threshold in sorted(non_mated):
        realised = sum(score > threshold for score in non_mated) / len(non_mated)
        if realised <= fpir:
            return sum(right and score > threshold for score, right in mated) / len(mated), realised
    raise AssertionError("nothing is above the highest score")


# Persons 1, 2 and 3 are enrolled at 0, 60 and 120 degrees.
RANK_IDENTITIES = torch.tensor([1, 2, 3, 1, 2, 2, 3])
RANK_DEGREES = (0.0, 60.0, 120.0, 10.0, 65.0, 20.0, 5.0)


def test_ranks_by_hand() -> None:
    unit_ND = at_degrees(*RANK_DEGREES)
    # 10 finds 1, 65 finds 2; 20 finds 1 before 2; 5 finds 1, then 2, then 3
    assert rank_accuracy(unit_ND, RANK_IDENTITIES, rank=1) == pytest.approx(2 / 4)
    assert rank_accuracy(unit_ND, RANK_IDENTITIES, rank=2) == pytest.approx(3 / 4)


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("noise", [0.3, 1.5])
def test_rank_accuracy_matches_a_search_for_each_probe(rank: int, noise: float) -> None:
    unit_ND, identity_N = random_people(120, 25, noise=noise)
    assert rank_accuracy(unit_ND, identity_N, rank=rank) == naive_rank_accuracy(unit_ND, identity_N, rank)


def test_a_person_of_one_image_only_is_there_to_be_mistaken_for() -> None:
    identity_N = torch.tensor([1, 1, 2])
    assert rank_accuracy(at_degrees(0, 10, 90), identity_N, rank=1) == 1.0
    assert rank_accuracy(at_degrees(0, 10, 12), identity_N, rank=1) == 0.0


def test_a_network_that_tells_nobody_apart_finds_nobody() -> None:
    unit_ND, identity_N = torch.tensor([[1.0, 0.0]]).repeat(240, 1), torch.arange(240) // 2
    assert rank_accuracy(unit_ND, identity_N, rank=5) == 0.0
    assert tpir_at_fpir(unit_ND, identity_N, fpir=0.1).tpir == 0.0


# Persons 0 and 2 are enrolled at 0 and 90 degrees; persons 1 and 3 are not, and come nearest to within
# 30, 20, 10 and 5 degrees.
OPEN_IDENTITIES = torch.tensor([0, 2, 0, 0, 0, 2, 2, 1, 1, 3, 3])
OPEN_DEGREES = (0.0, 90.0, -3.0, -8.0, 60.0, 92.0, 130.0, 30.0, 70.0, 100.0, -5.0)


@pytest.mark.parametrize(
    ("fpir", "tpir", "within_degrees"),
    [
        (0.25, 3 / 5, 10.0),  # -3, -8 and 92 are right and near enough; 60 is nearer to 90
        (0.5, 3 / 5, 20.0),
        (0.75, 3 / 5, 30.0),
    ],
)
def test_open_set_by_hand(fpir: float, tpir: float, within_degrees: float) -> None:
    point = tpir_at_fpir(at_degrees(*OPEN_DEGREES), OPEN_IDENTITIES, fpir=fpir)
    assert point.threshold == pytest.approx(torch.tensor(within_degrees).deg2rad().cos().item())
    assert (point.tpir, point.fpir) == pytest.approx((tpir, fpir))
    assert (point.num_mated, point.num_non_mated) == (5, 4)


def test_a_match_must_lie_above_the_threshold() -> None:
    degrees = (*OPEN_DEGREES[:3], -12.0, *OPEN_DEGREES[4:])
    # -12 is right, yet farther than the 10 degrees at which one stranger in four passes
    assert tpir_at_fpir(at_degrees(*degrees), OPEN_IDENTITIES, fpir=0.25).tpir == pytest.approx(2 / 5)


@pytest.mark.parametrize("fpir", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("noise", [0.3, 0.8])
def test_open_set_matches_a_search_for_each_probe(fpir: float, noise: float) -> None:
    unit_ND, identity_N = random_people(200, 31, noise=noise)
    point = tpir_at_fpir(unit_ND, identity_N, fpir=fpir)
    assert (point.tpir, point.fpir) == pytest.approx(naive_open_set(unit_ND, identity_N, fpir))
    assert point.num_mated + point.num_non_mated + 16 == 200


def test_tied_strangers_are_all_refused_rather_than_exceed_the_fpir() -> None:
    identity_N = torch.tensor([0, 2, 0, 1, 1, 3, 3])
    point = tpir_at_fpir(at_degrees(0, 90, 1, 7, 7, 7, 7), identity_N, fpir=0.5)
    assert (point.tpir, point.fpir) == (1.0, 0.0)


@pytest.mark.parametrize(("not_enrolled", "expected"), [(0.5, 10), (0.25, 5), (0.9, 18), (0.3, 6)])
def test_the_share_of_people_who_are_not_enrolled(not_enrolled: float, expected: int) -> None:
    unit_ND, identity_N = F.normalize(torch.randn(80, 4)), torch.arange(20).repeat(4)
    point = tpir_at_fpir(unit_ND, identity_N, fpir=0.2, not_enrolled=not_enrolled)
    assert point.num_non_mated == 4 * expected
    assert point.num_mated == 3 * (20 - expected)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return BridgeTinySettings().build(embedding_dim=16, size_px=16)


def make_pairs(num_people: int) -> VerificationPairs:
    """Four images of each person, of noise around a picture of his own."""
    rng = torch.Generator().manual_seed(0)
    people = torch.rand(num_people, 3, 16, 16, generator=rng).repeat_interleave(4, dim=0)
    images = (people + 0.2 * torch.randn(people.shape, generator=rng)).clamp(0, 1)
    return VerificationPairs(
        name="validation",
        images_NCHW=(255 * images).byte(),
        left_P=torch.tensor([0]),
        right_P=torch.tensor([1]),
        is_genuine_P=torch.tensor([True]),
        group_P=torch.tensor([0]),
        group_names=("all",),
        identity_N=torch.arange(num_people).repeat_interleave(4),
    )


def test_evaluation_reports_the_finest_rate_it_can_measure(network: nn.Module) -> None:
    pairs = make_pairs(50)
    unit_ND = embed_pairs(network, pairs)
    metrics = evaluate_identification(network, pairs, prefix="validation")
    assert metrics == {
        "validation/rank_1": rank_accuracy(unit_ND, pairs.people(), rank=1),
        "validation/rank_5": rank_accuracy(unit_ND, pairs.people(), rank=5),
        "validation/tpir_at_fpir_1e-1": tpir_at_fpir(unit_ND, pairs.people(), fpir=0.1).tpir,
    }
    assert 0.1 < metrics["validation/rank_1"] < metrics["validation/rank_5"]


def test_evaluation_leaves_out_what_it_cannot_measure(network: nn.Module) -> None:
    assert list(evaluate_identification(network, make_pairs(48), prefix="v")) == ["v/rank_1", "v/rank_5"]


@pytest.mark.parametrize("rank", [0, 3])
def test_refuses_a_rank_that_says_nothing(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"rank must lie in \[1, 3\).*, got {rank}"):
        rank_accuracy(at_degrees(*RANK_DEGREES), RANK_IDENTITIES, rank=rank)


def test_refuses_people_of_one_image_each() -> None:
    with pytest.raises(ValueError, match="needs a probe and more than 1 in the gallery, got 0 and 3"):
        rank_accuracy(at_degrees(0, 60, 120), torch.tensor([1, 2, 3]), rank=1)


def test_refuses_an_fpir_it_cannot_measure() -> None:
    with pytest.raises(ValueError, match=r"fpir=0.01 needs 100 non-mated probes, got 4"):
        tpir_at_fpir(at_degrees(*OPEN_DEGREES), OPEN_IDENTITIES, fpir=0.01)


@pytest.mark.parametrize(
    ("fpir", "not_enrolled", "message"),
    [(1.0, 0.5, "fpir must be a fraction"), (0.5, 0.0, "not_enrolled must be a fraction")],
)
def test_refuses_shares_that_are_no_fractions(fpir: float, not_enrolled: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tpir_at_fpir(at_degrees(*OPEN_DEGREES), OPEN_IDENTITIES, fpir=fpir, not_enrolled=not_enrolled)
