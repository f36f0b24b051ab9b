"""Evaluation-oriented distillation, against its equations in plain floats."""

import math
from itertools import combinations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from distill.losses.base import LossContext
from distill.losses.ekd import EKD, EKDSettings, RunningThresholds, ekd, far_thresholds, soft_ranks
from distill.outputs import ModelOutputs
from tests.distill.losses.by_hand import dot, mean, unit_rows

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
"""Three people in twos: 3 genuine and 12 impostor pairs."""


def faces(seed: int, width: int = 4) -> Tensor:
    return torch.randn(6, width, generator=torch.Generator().manual_seed(seed))


def similarities(raw: Tensor, *, genuine: bool) -> list[float]:
    rows = unit_rows(raw)
    pairs = [(i, j) for i, j in combinations(range(6), 2) if (LABELS[i] == LABELS[j]).item() == genuine]
    return [dot(rows[i], rows[j]) for i, j in pairs]


def thresholds(impostors: list[float]) -> list[float]:
    descending = sorted(impostors, reverse=True)
    return [descending[math.floor(len(impostors) / 10**k)] for k in range(1, 7)]


def rank(similarity: float, cuts: list[float], temperature: float) -> float:
    return sum(1 / (1 + math.exp(-(similarity - cut) / temperature)) for cut in cuts)


def expected_loss(
    student: Tensor,
    teacher: Tensor,
    student_cuts: list[float],
    teacher_cuts: list[float],
    *,
    temperature: float,
    top_k: int,
) -> float:
    def squares(pairs: list[tuple[float, float]]) -> list[float]:
        return [
            (rank(s, student_cuts, temperature) - rank(t, teacher_cuts, temperature)) ** 2 for s, t in pairs
        ]

    genuine, impostors = (
        list(zip(similarities(student, genuine=kind), similarities(teacher, genuine=kind), strict=True))
        for kind in (True, False)
    )
    hardest = sorted(impostors, reverse=True)[:top_k]
    return 0.02 * mean(squares(genuine)) + 0.01 * mean(squares(hardest))


def value(loss_fn: EKD, student: Tensor, teacher: Tensor, labels: Tensor = LABELS) -> Tensor:
    return loss_fn(
        student=ModelOutputs(embedding=student), teacher=ModelOutputs(embedding=teacher), labels_B=labels
    )


def built(**values: float) -> EKD:
    return EKDSettings.model_validate(values).build(LossContext(student_dim=4, teacher_dim=3))


@pytest.mark.parametrize("top_k", [2000, 5])
def test_matches_the_equations(top_k: int) -> None:
    student, teacher = faces(0), faces(1, width=3)
    cuts = [thresholds(similarities(raw, genuine=False)) for raw in (student, teacher)]
    expected = expected_loss(student, teacher, *cuts, temperature=0.1, top_k=top_k)
    loss = value(built(temperature=0.1, top_k=top_k), student, teacher)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_thresholds_move_a_hundredth_of_the_way() -> None:
    loss_fn = built(temperature=0.1)
    first, second = (faces(0), faces(1, width=3)), (faces(2), faces(3, width=3))
    value(loss_fn, *first)
    loss = value(loss_fn, *second)
    cuts = [
        [
            0.99 * old + 0.01 * new
            for old, new in zip(
                thresholds(similarities(before, genuine=False)),
                thresholds(similarities(after, genuine=False)),
                strict=True,
            )
        ]
        for before, after in zip(first, second, strict=True)
    ]
    assert loss_fn.student_thresholds.threshold_K.tolist() == pytest.approx(cuts[0], abs=1e-6)
    assert loss_fn.teacher_thresholds.threshold_K.tolist() == pytest.approx(cuts[1], abs=1e-6)
    expected = expected_loss(*second, *cuts, temperature=0.1, top_k=2000)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_thresholds_of_two_thousand_impostors() -> None:
    impostors = torch.arange(2016.0)[torch.randperm(2016, generator=torch.Generator().manual_seed(0))]
    # 201, 20, 2 and then no impostors lie above.
    assert far_thresholds(impostors).tolist() == [1814, 1995, 2013, 2015, 2015, 2015]


def test_one_impostor_is_every_threshold() -> None:
    assert far_thresholds(torch.tensor([0.25])).tolist() == [0.25] * 6


def test_refuses_thresholds_of_nothing() -> None:
    with pytest.raises(ValueError, match="thresholds need an impostor pair"):
        far_thresholds(torch.empty(0))


def test_a_rank_counts_the_rates_that_accept_a_pair() -> None:
    cuts = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    ranks = soft_ranks(torch.tensor([-1.0, 0.35, 0.4, 1.0]), cuts, temperature=0.001)
    assert ranks.tolist() == pytest.approx([0, 3, 3.5, 6], abs=1e-4)


def test_the_hardest_impostors_are_the_students() -> None:
    student, teacher = torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.9])
    zeros, impostor = torch.zeros(6), torch.tensor([False, False])
    loss = ekd(
        student,
        teacher,
        impostor,
        student_threshold_K=zeros,
        teacher_threshold_K=zeros + 0.2,
        temperature=0.01,
        top_k=1,
    )
    # The first pair is accepted six times by the student, never by the teacher; the second by both.
    assert loss.item() == pytest.approx(0.01 * 36, rel=1e-3)


def test_pairs_weigh_as_set() -> None:
    zeros, similarity = torch.zeros(6), torch.tensor([0.9, 0.9])
    loss = ekd(
        similarity,
        -similarity,
        torch.tensor([True, False]),
        student_threshold_K=zeros,
        teacher_threshold_K=zeros,
        positive_weight=2.0,
        negative_weight=3.0,
    )
    assert loss.item() == pytest.approx(5 * 36, rel=1e-5)


def test_evaluation_leaves_thresholds_alone() -> None:
    loss_fn = built().eval()
    value(loss_fn, faces(0), faces(1))
    assert not loss_fn.student_thresholds.is_set
    loss_fn.train()
    value(loss_fn, faces(0), faces(1))
    kept = loss_fn.student_thresholds.threshold_K.clone()
    loss_fn.eval()
    value(loss_fn, faces(2), faces(3))
    assert torch.equal(loss_fn.student_thresholds.threshold_K, kept)


def test_unset_thresholds_are_those_of_the_batch() -> None:
    impostors = torch.tensor([0.1, 0.4, 0.3])
    running = RunningThresholds(update_rate=0.01).eval()
    assert torch.equal(running(impostors), far_thresholds(impostors))


def test_evaluation_uses_thresholds_as_they_are() -> None:
    running = RunningThresholds(update_rate=0.5)
    kept = running(torch.tensor([0.1, 0.4, 0.3])).tolist()
    assert running.eval()(torch.tensor([0.9, 0.8])).tolist() == kept == pytest.approx([0.4] * 6)


def test_thresholds_are_kept_in_checkpoints() -> None:
    loss_fn, restored = built(), built()
    value(loss_fn, faces(0), faces(1))
    restored.load_state_dict(loss_fn.state_dict())
    torch.testing.assert_close(
        value(restored, faces(2), faces(3)), value(loss_fn, faces(2), faces(3)), rtol=0, atol=0
    )


def test_a_batch_of_strangers_still_compares_impostors() -> None:
    loss = value(built(temperature=0.1), faces(0).requires_grad_(), faces(1), torch.arange(6))
    loss.backward()
    assert loss.item() > 0


def test_a_batch_of_one_person_is_a_zero_that_can_be_trained_on() -> None:
    loss_fn, student = built(), faces(0).requires_grad_()
    loss = value(loss_fn, student, faces(1), torch.zeros(6, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()
    assert not loss_fn.student_thresholds.is_set


def test_refuses_faces_without_labels() -> None:
    with pytest.raises(ValueError, match="labels_B must be given"):
        built()(student=ModelOutputs(embedding=faces(0)), teacher=ModelOutputs(embedding=faces(1)))


def test_settings_are_the_published() -> None:
    settings = EKDSettings()
    assert (settings.positive_weight, settings.negative_weight, settings.weight) == (0.02, 0.01, 1)
    assert (settings.temperature, settings.top_k, settings.update_rate) == (0.01, 2000, 0.01)
    assert settings.min_batch_size == 8
    assert settings.needs == {"labels", "positives"}
    assert not settings.same_width


def test_refuses_to_compare_nothing() -> None:
    with pytest.raises(ValidationError, match="positive_weight or negative_weight must be above 0"):
        EKDSettings(positive_weight=0, negative_weight=0)
