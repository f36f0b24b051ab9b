"""The identity-relation protocol against plain loops over images, and by hand."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import DivergenceError, InputError
from distill.evaluation import embed_images, evaluate_privacy
from distill.evaluation import privacy as module
from distill.evaluation.privacy import (
    IdentityPairs,
    fisher_discriminant_ratio,
    nearest_similarity,
    nearest_stranger_similarity,
    pair_similarities,
    pairs_across,
    pairs_within,
    separation,
)

MIXED = torch.tensor([2, 0, 2, 1, 0, 2, 5])
"""Classes out of order: of sizes 2, 1, 3 and 1, two numbers unused."""


@dataclass(frozen=True)
class Faces:
    images: Tensor
    label_N: Tensor

    def read(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[index_B], index_B


class Signs(nn.Module):
    """Embeds a face as the mean red and green of its upper and its lower half."""

    def forward(self, faces: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(faces[:, :2], (2, 1)).flatten(1)


def coded(codes: list[str], labels: list[int]) -> Faces:
    """Faces that `Signs` embeds as four signs. Codes that differ in k digits have a cosine of 1 - k / 2."""
    bits = torch.tensor([[int(digit) for digit in code] for code in codes], dtype=torch.uint8)
    halves = bits.view(-1, 2, 2, 1).repeat_interleave(2, dim=2).expand(-1, -1, -1, 4)
    blue = torch.zeros(len(codes), 1, 4, 4, dtype=torch.uint8)
    return Faces(images=255 * torch.cat([halves, blue], dim=1), label_N=torch.tensor(labels))


AUTHENTIC = coded(["0000", "0001", "0011", "1110"], [0, 0, 1, 2])
SYNTHETIC = coded(["0000", "0100", "1101", "1011"], [0, 0, 1, 1])


def units(num: int, *, seed: int = 0, width: int = 5) -> Tensor:
    return F.normalize(torch.randn(num, width, generator=torch.Generator().manual_seed(seed)).double())


def kinds(
    pairs: IdentityPairs, *, ordered: bool
) -> tuple[Counter[tuple[int, ...]], Counter[tuple[int, ...]]]:
    """How often each genuine and each impostor pair comes."""
    genuine: Counter[tuple[int, ...]] = Counter()
    impostor: Counter[tuple[int, ...]] = Counter()
    for left, right, is_genuine in zip(
        pairs.reference_P.tolist(), pairs.probe_P.tolist(), pairs.is_genuine_P.tolist(), strict=True
    ):
        (genuine if is_genuine else impostor)[(left, right) if ordered else tuple(sorted((left, right)))] += 1
    return genuine, impostor


def test_pairs_within_a_set_are_all_unordered_ones_once() -> None:
    genuine, impostor = kinds(pairs_within(MIXED), ordered=False)
    couples = list(combinations(range(7), 2))
    assert genuine == Counter((i, j) for i, j in couples if MIXED[i] == MIXED[j])
    assert impostor == Counter((i, j) for i, j in couples if MIXED[i] != MIXED[j])
    assert sum(genuine.values()) == 1 + 3


def test_pairs_across_sets_are_all_of_reference_and_probe() -> None:
    probe = torch.tensor([5, 0, 3, 2, 0])
    genuine, impostor = kinds(pairs_across(MIXED, probe), ordered=True)
    couples = [(i, j) for i in range(7) for j in range(5)]
    assert genuine == Counter((i, j) for i, j in couples if MIXED[i] == probe[j])
    assert impostor == Counter((i, j) for i, j in couples if MIXED[i] != probe[j])


@pytest.mark.parametrize("across", [False, True])
def test_a_choice_of_impostors_repeats_none_and_leaves_genuine_pairs_alone(across: bool) -> None:
    label_N = torch.arange(60) % 7

    def draw(seed: int) -> IdentityPairs:
        if across:
            return pairs_across(label_N, label_N, num_impostors=200, seed=seed)
        return pairs_within(label_N, num_impostors=200, seed=seed)

    genuine, impostor = kinds(draw(0), ordered=across)
    assert len(impostor) == sum(impostor.values()) == 200
    assert all(label_N[left] != label_N[right] for left, right in impostor)
    assert genuine == kinds(draw(1), ordered=across)[0]
    assert kinds(draw(0), ordered=across)[1] == impostor
    assert kinds(draw(1), ordered=across)[1] != impostor


def test_every_impostor_pair_is_equally_likely() -> None:
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(1000):
        counts += kinds(pairs_within(MIXED, num_impostors=3, seed=seed), ordered=False)[1]
    expected = 1000 * 3 / 17  # of 21 couples 4 are genuine
    assert len(counts) == 17
    assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts.values())


def test_default_is_fifty_thousand_impostors() -> None:
    assert pairs_within(torch.arange(400)).num_impostors == 50_000
    assert pairs_within(torch.arange(300)).num_impostors == 300 * 299 // 2


def test_classes_without_a_partner_have_no_genuine_pairs() -> None:
    assert pairs_within(torch.arange(4)).num_genuine == 0
    assert pairs_across(torch.arange(4), torch.arange(4, 8)).num_genuine == 0
    assert pairs_within(torch.zeros(4, dtype=torch.int64)).num_impostors == 0


def test_similarities_are_cosines_chunk_after_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAIRS_AT_A_TIME", 3)
    reference_ND, probe_MD = units(7), units(5, seed=1)
    pairs = pairs_across(MIXED, torch.tensor([5, 0, 3, 2, 0]))
    expected = [
        sum(a * b for a, b in zip(reference_ND[i].tolist(), probe_MD[j].tolist(), strict=True))
        for i, j in zip(pairs.reference_P.tolist(), pairs.probe_P.tolist(), strict=True)
    ]
    assert pair_similarities(reference_ND, probe_MD, pairs).tolist() == pytest.approx(expected, abs=1e-12)


def test_fisher_discriminant_ratio_by_hand() -> None:
    # means 0.7 and 0.1, population variances 0.01 and 0.04
    ratio = fisher_discriminant_ratio(torch.tensor([0.6, 0.8]), torch.tensor([-0.1, 0.3]))
    assert ratio == pytest.approx(0.36 / 0.05, rel=1e-5)


def test_fisher_discriminant_ratio_needs_scores_that_vary() -> None:
    with pytest.raises(ValueError, match="needs scores that vary"):
        fisher_discriminant_ratio(torch.tensor([0.5, 0.5]), torch.tensor([0.25]))


def naive_lowest_fnmr(genuine: list[float], impostor: list[float], fmr: float) -> float:
    """Every score may be the threshold at and above which pairs match; so may one above all of them."""
    rates = [
        np.mean([score < threshold for score in genuine])
        for threshold in [*genuine, *impostor, 2.0]
        if np.mean([score >= threshold for score in impostor]) <= fmr
    ]
    return float(min(rates))


@pytest.mark.parametrize("decimals", [1, 2, 8])
def test_fmr100_and_fmr1000_are_the_lowest_fnmr_of_all_thresholds(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    genuine = np.round(rng.normal(0.6, 0.2, 150), decimals)
    impostor = np.round(rng.normal(0.0, 0.2, 1000), decimals)
    metrics = separation(torch.tensor([*genuine, *impostor]), torch.arange(1150) < 150)
    for name, fmr in (("fmr100", 0.01), ("fmr1000", 0.001)):
        assert metrics[name] == pytest.approx(
            naive_lowest_fnmr(list(genuine), list(impostor), fmr), abs=1e-12
        )


def test_fmr100_at_ties_by_hand() -> None:
    # One impostor in a hundred may match. Two share 0.8, so neither may, nor the genuine pair that shares it.
    similarity_P = torch.tensor([0.9, 0.8, 0.7, 0.6] + [0.8] * 2 + [0.1, 0.2] * 49).double()
    assert separation(similarity_P, torch.arange(104) < 4)["fmr100"] == pytest.approx(3 / 4)
    # With one of the two at 0.75 the other may, and the threshold falls to just above 0.75.
    similarity_P[5] = 0.75
    assert separation(similarity_P, torch.arange(104) < 4)["fmr100"] == pytest.approx(2 / 4)


@pytest.mark.parametrize(
    ("num_impostors", "measured"),
    [(99, set()), (100, {"fmr100"}), (999, {"fmr100"}), (1000, {"fmr100", "fmr1000"})],
)
def test_an_fmr_finer_than_one_impostor_is_absent(num_impostors: int, measured: set[str]) -> None:
    metrics = separation(torch.linspace(1, 0, num_impostors + 5), torch.arange(num_impostors + 5) < 5)
    assert {name for name in metrics if name.startswith("fmr")} == measured


def test_separation_by_hand() -> None:
    metrics = separation(torch.tensor([0.9, 0.5, 0.5, 0.1]).double(), torch.tensor([1, 1, 0, 0]).bool())
    # (FMR, FNMR) goes from (0, 1/2) straight to (1/2, 0); means 0.7 and 0.3, all deviations 0.2
    assert metrics == pytest.approx(
        {
            "eer": 0.25,
            "fdr": 0.16 / 0.08,
            "genuine_mean": 0.7,
            "genuine_std": 0.2,
            "impostor_mean": 0.3,
            "impostor_std": 0.2,
        }
    )


def test_nearest_similarities_match_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PROBES_AT_A_TIME", 2)
    probe_MD, reference_ND = units(5, seed=1), units(7)
    expected = [max(float(probe @ reference) for reference in reference_ND) for probe in probe_MD]
    assert nearest_similarity(probe_MD, reference_ND).tolist() == pytest.approx(expected)
    strangers = [
        max(float(reference_ND[i] @ reference_ND[j]) for j in range(7) if MIXED[i] != MIXED[j])
        for i in range(7)
    ]
    assert nearest_stranger_similarity(reference_ND, MIXED).tolist() == pytest.approx(strangers)


@pytest.fixture(scope="module")
def by_hand() -> dict[str, float]:
    return evaluate_privacy(Signs(), AUTHENTIC, SYNTHETIC, far=0.2)


def test_reports_three_comparisons_and_nearest_neighbours(by_hand: dict[str, float]) -> None:
    statistics = ["eer", "fdr", "genuine_mean", "genuine_std", "impostor_mean", "impostor_std"]
    comparisons = [
        f"privacy/{name}/{of}" for name in ("authentic", "synthetic", "cross") for of in statistics
    ]
    nearest = [f"privacy/nearest/{of}" for of in ("threshold", "hit_rate", "stranger_hit_rate")]
    assert list(by_hand) == [*comparisons, *nearest]


@pytest.mark.parametrize(
    ("name", "genuine", "impostor"),
    [
        ("authentic", [0.5], [0.0, -0.5, 0.5, -1.0, -0.5]),
        ("synthetic", [0.5, 0.0], [-0.5, -0.5, 0.0, -1.0]),
        # identities 0 and 1 have synthetic faces of their own; to those of 2 everybody is a stranger
        (
            "cross",
            [1.0, 0.5, 0.5, 0.0, -0.5, 0.5],
            [-0.5, -0.5, 0.0, 0.0, 0.0, -0.5, -0.5, 0.0, 0.0, 0.0],
        ),
    ],
)
def test_scores_of_each_comparison_by_hand(
    by_hand: dict[str, float], name: str, genuine: list[float], impostor: list[float]
) -> None:
    for kind, scores in (("genuine", genuine), ("impostor", impostor)):
        assert by_hand[f"privacy/{name}/{kind}_mean"] == pytest.approx(np.mean(scores))
        assert by_hand[f"privacy/{name}/{kind}_std"] == pytest.approx(np.std(scores))
    ratio = (np.mean(genuine) - np.mean(impostor)) ** 2 / (np.var(genuine) + np.var(impostor))
    assert by_hand[f"privacy/{name}/fdr"] == pytest.approx(ratio)


def test_hit_rates_by_hand(by_hand: dict[str, float]) -> None:
    # One of five authentic impostors may pass, the one of 0.5: the next lies at 0.
    assert by_hand["privacy/nearest/threshold"] == 0.0
    # The nearest authentic faces of the synthetic ones lie at 1, 0.5, 0 (not above the threshold) and 0.5.
    assert by_hand["privacy/nearest/hit_rate"] == 3 / 4
    # The nearest strangers of the authentic ones lie at 0, 0.5, 0.5 and -0.5.
    assert by_hand["privacy/nearest/stranger_hit_rate"] == 2 / 4


def test_copies_of_authentic_faces_are_as_good_as_the_originals() -> None:
    label_N = torch.arange(12) % 4
    images = torch.randint(256, (12, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    faces = Faces(images=images, label_N=label_N)
    metrics = evaluate_privacy(Signs(), faces, faces, prefix="p", far=0.1)
    within = {name: value for name, value in metrics.items() if name.startswith("p/authentic/")}
    assert within == {name: metrics[name.replace("authentic", "synthetic")] for name in within}
    assert metrics["p/nearest/hit_rate"] == 1.0
    # every face meets itself too, which within a set it does not
    assert metrics["p/cross/genuine_mean"] > metrics["p/authentic/genuine_mean"]


def test_faces_of_another_class_match_nobody_of_their_own() -> None:
    swapped = replace(SYNTHETIC, label_N=1 - SYNTHETIC.label_N)
    own = evaluate_privacy(Signs(), AUTHENTIC, SYNTHETIC, far=0.2)
    others = evaluate_privacy(Signs(), AUTHENTIC, swapped, far=0.2)
    assert others["privacy/cross/genuine_mean"] < own["privacy/cross/genuine_mean"]
    assert others["privacy/cross/eer"] > own["privacy/cross/eer"]
    assert others["privacy/nearest/hit_rate"] == own["privacy/nearest/hit_rate"]


def test_is_a_function_of_its_seed() -> None:
    def evaluate(seed: int) -> dict[str, float]:
        return evaluate_privacy(Signs(), AUTHENTIC, SYNTHETIC, far=0.5, num_impostors=3, seed=seed)

    assert evaluate(0) == evaluate(0)
    assert any(evaluate(0) != evaluate(seed) for seed in range(1, 5))


def test_refuses_the_teacher_as_its_own_judge() -> None:
    with pytest.raises(
        InputError, match="the embedder of privacy must not be the teacher, both have sha256 ab"
    ):
        evaluate_privacy(Signs(), AUTHENTIC, SYNTHETIC, teacher_digest="ab", embedder_digest="ab", far=0.2)


@pytest.mark.parametrize(("teacher", "embedder"), [("ab", "cd"), ("ab", None), (None, "ab"), (None, None)])
def test_takes_any_other_judge(teacher: str | None, embedder: str | None) -> None:
    assert evaluate_privacy(
        Signs(), AUTHENTIC, SYNTHETIC, teacher_digest=teacher, embedder_digest=embedder, far=0.2
    )


@pytest.mark.parametrize(
    ("authentic", "synthetic", "far", "message"),
    [
        (AUTHENTIC, SYNTHETIC, 1e-3, r"far=0.001 needs 1,000 authentic impostor pairs, got 5"),
        (AUTHENTIC, SYNTHETIC, 0.1, r"far=0.1 needs 10 authentic impostor pairs, got 5"),
        (AUTHENTIC, SYNTHETIC, 1.0, r"far must be a fraction in \(0, 1\), got 1.0"),
        (
            coded(["0000", "1111"], [0, 1]),
            SYNTHETIC,
            0.2,
            "the authentic comparison needs both kinds of pairs, got 0 genuine, 1 impostor",
        ),
        (
            AUTHENTIC,
            coded(["0000", "1111"], [1, 1]),
            0.2,
            "the synthetic comparison needs both kinds of pairs, got 1 genuine, 0 impostor",
        ),
        (
            AUTHENTIC,
            replace(SYNTHETIC, label_N=SYNTHETIC.label_N + 7),
            0.2,
            "the cross comparison needs both kinds of pairs, got 0 genuine, 16 impostor",
        ),
        (
            AUTHENTIC,
            replace(SYNTHETIC, label_N=torch.tensor([0, 0, 1])),
            0.2,
            "the synthetic set needs a label for each of its 4 images, got 3",
        ),
    ],
)
def test_refuses_what_it_cannot_measure(authentic: Faces, synthetic: Faces, far: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_privacy(Signs(), authentic, synthetic, far=far)


def test_refuses_an_embedder_that_diverged() -> None:
    class Diverged(nn.Module):
        def forward(self, faces: Tensor) -> Tensor:
            return faces.mean((2, 3)) / 0

    with pytest.raises(DivergenceError, match="not finite to faces of the authentic set"):
        evaluate_privacy(Diverged(), AUTHENTIC, SYNTHETIC, far=0.2)


def test_unnamed_images_have_embeddings_too() -> None:
    unit_ND = embed_images(Signs(), AUTHENTIC.images, batch_size=3)
    expected = [[-1, -1, -1, -1], [-1, -1, -1, 1], [-1, -1, 1, 1], [1, 1, 1, -1]]
    assert unit_ND.tolist() == [[sign / 2 for sign in row] for row in expected]
