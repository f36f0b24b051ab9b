"""ElasticFace: how margins are drawn, and whom they are given to."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill.losses.margins import (
    ElasticArc,
    ElasticArcPlusSettings,
    ElasticArcSettings,
    ElasticCos,
    ElasticCosPlusSettings,
    ElasticCosSettings,
)

TARGETS = torch.tensor([0.9, 0.1, 0.5, -0.2, 0.3])


def logits_of(margin: ElasticArc | ElasticCos, target_B: Tensor) -> Tensor:
    """The logits of faces of class 0 of two, whose cosine with the other class is 0."""
    cosine_BC = torch.stack([target_B, torch.zeros_like(target_B)], dim=1)
    labels_B = torch.zeros(len(target_B), dtype=torch.int64)
    return margin(cosine_BC, labels_B, norm_B=torch.ones(len(target_B)))


def taken_off(margin: ElasticCos, target_B: Tensor) -> Tensor:
    return target_B - logits_of(margin, target_B)[:, 0] / margin.scale


def added_angle(margin: ElasticArc, target_B: Tensor) -> Tensor:
    return (logits_of(margin, target_B)[:, 0] / margin.scale).acos() - target_B.acos()


@pytest.mark.parametrize(
    ("build", "expected_mean", "expected_std"),
    [
        (lambda: ElasticArcSettings().build(), 0.5, 0.05),
        (lambda: ElasticArcPlusSettings().build(), 0.5, 0.0175),
        (lambda: ElasticCosSettings().build(), 0.35, 0.05),
        (lambda: ElasticCosPlusSettings().build(), 0.35, 0.02),
    ],
)
def test_margins_are_normally_distributed(
    build: Callable[[], ElasticArc | ElasticCos], expected_mean: float, expected_std: float
) -> None:
    margin, target = build(), torch.linspace(-0.5, 0.8, 64)
    of_batch = added_angle if isinstance(margin, ElasticArc) else taken_off
    drawn = torch.stack([of_batch(margin, target) for _ in range(300)])  # pyright: ignore[reportArgumentType]
    standard = (drawn - expected_mean) / expected_std
    # Five standard errors of 19,200 draws; 0.27 % of a normal distribution lie beyond three deviations.
    assert standard.mean().item() == pytest.approx(0, abs=5 / math.sqrt(19_200))
    assert standard.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * 19_200))
    assert (standard.abs() > 3).float().mean().item() == pytest.approx(0.0027, abs=0.002)


def test_successive_batches_are_drawn_independently() -> None:
    margin = ElasticCosSettings().build()
    drawn = torch.stack([taken_off(margin, torch.zeros(64)) for _ in range(300)])
    pairs = torch.stack([drawn[:-1].flatten(), drawn[1:].flatten()])
    assert abs(pairs.corrcoef()[0, 1].item()) < 5 / math.sqrt(19_000)


def test_arc_widens_by_the_draws_that_cos_takes_off() -> None:
    angle = (added_angle(ElasticArcSettings().build(), TARGETS) - 0.5) / 0.05
    number = (taken_off(ElasticCosSettings().build(), TARGETS) - 0.35) / 0.05
    torch.testing.assert_close(angle, number, rtol=0, atol=1e-4)
    assert number.std() > 0.1


@pytest.mark.parametrize("settings", [ElasticArcPlusSettings(), ElasticCosPlusSettings()])
def test_plus_gives_the_largest_margin_to_the_hardest(
    settings: ElasticArcPlusSettings | ElasticCosPlusSettings,
) -> None:
    margin = settings.build()
    for _ in range(5):
        given = added_angle(margin, TARGETS) if isinstance(margin, ElasticArc) else taken_off(margin, TARGETS)
        # Face 3 is the hardest, then 1, 4, 2; face 0 is the easiest.
        assert given.argsort(descending=True).tolist() == [3, 1, 4, 2, 0]


def test_plus_shares_out_the_very_draws_of_the_plain_form() -> None:
    plain = taken_off(ElasticCosSettings(sigma=0.05).build(), TARGETS)
    shared = taken_off(ElasticCosPlusSettings(sigma=0.05).build(), TARGETS)
    torch.testing.assert_close(shared.sort().values, plain.sort().values)
    assert not torch.equal(shared, plain)


def test_evaluation_uses_the_mean_margin() -> None:
    for settings in (ElasticCosSettings(), ElasticCosPlusSettings()):
        assert taken_off(settings.build().eval(), TARGETS).tolist() == pytest.approx([0.35] * 5, abs=1e-6)
    for settings in (ElasticArcSettings(), ElasticArcPlusSettings()):
        assert added_angle(settings.build().eval(), TARGETS).tolist() == pytest.approx([0.5] * 5, abs=1e-5)


def test_draws_follow_from_the_count_of_batches_alone() -> None:
    first, second = ElasticCosSettings().build(), ElasticCosSettings().build()
    torch.manual_seed(1)
    stream = torch.get_rng_state()
    drawn = [taken_off(first, TARGETS) for _ in range(4)]
    assert torch.equal(torch.get_rng_state(), stream)
    torch.manual_seed(2)
    second.load_state_dict({"step": torch.tensor(3)})
    assert torch.equal(taken_off(second, TARGETS), drawn[3])
    assert not torch.equal(drawn[2], drawn[3])
    assert first.step.item() == second.step.item() == 4
    assert first.step.dtype == torch.int64


def test_without_a_deviation_it_is_the_plain_margin() -> None:
    margin = ElasticCosSettings(sigma=0.0).build()
    assert taken_off(margin, TARGETS).tolist() == pytest.approx([0.35] * 5, abs=1e-6)
