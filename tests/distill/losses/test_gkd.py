"""Grouped distillation, against its definition in plain floats."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.losses import LossContext
from distill.losses.gkd import GKDSettings, RankBy, gkd_terms, primary_group
from distill.losses.hinton_kl import hinton_kl
from distill.outputs import ModelOutputs


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softened(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def group_of(probabilities: list[float], threshold: float) -> list[int]:
    group: list[int] = []
    for c in sorted(range(len(probabilities)), key=lambda c: -probabilities[c]):
        if sum(probabilities[g] for g in group) >= threshold:
            break
        group.append(c)
    return group


def kl(teacher: list[float], student: list[float]) -> float:
    return sum(t * math.log(t / s) for t, s in zip(teacher, student, strict=True) if t > 0)


def spread(probabilities: list[float], group: list[int]) -> list[float]:
    mass = sum(probabilities[c] for c in group)
    return [probabilities[c] / mass for c in group]


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.4, [False, True, False, False]),
        (0.5, [False, True, False, False]),
        (0.51, [False, True, False, True]),
        (0.8, [True, True, False, True]),
        (0.99, [True, True, True, True]),
    ],
)
def test_the_primary_group_is_the_smallest_that_reaches_the_threshold(
    threshold: float, expected: list[bool]
) -> None:
    probability = torch.tensor([[0.15, 0.5, 0.1, 0.25]], dtype=torch.float64)
    assert primary_group(probability, threshold=threshold).tolist() == [expected]


@pytest.mark.parametrize("rank_by", ["student", "teacher"])
@pytest.mark.parametrize(("temperature", "threshold"), [(1.0, 0.93), (4.0, 0.6), (2.0, 0.75)])
def test_matches_a_direct_reading(temperature: float, threshold: float, rank_by: RankBy) -> None:
    student, teacher = 4 * random(0, 6, 7), 4 * random(1, 6, 7)
    within, binary, sizes = 0.0, 0.0, set()
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p_s, p_t = softened(s, temperature), softened(t, temperature)
        group = group_of(p_s if rank_by == "student" else p_t, threshold)
        mass_s, mass_t = sum(p_s[c] for c in group), sum(p_t[c] for c in group)
        within += kl(spread(p_t, group), spread(p_s, group))
        binary += kl([mass_t, 1 - mass_t], [mass_s, 1 - mass_s])
        sizes.add(len(group))
    terms = gkd_terms(student, teacher, temperature=temperature, threshold=threshold, rank_by=rank_by)
    assert len(sizes) > 1  # faces have groups of their own
    assert terms[0].item() == pytest.approx(temperature**2 * within / 6, rel=1e-4)
    assert terms[1].item() == pytest.approx(temperature**2 * binary / 6, rel=1e-4)


def test_with_the_tail_it_would_be_hinton_s_divergence() -> None:
    """KL = binary + (teacher's mass of the group) within + (its mass of the rest) KL within the rest."""
    student, teacher = 3 * random(0, 1, 6).double(), 3 * random(1, 1, 6).double()
    within, binary = gkd_terms(student, teacher, temperature=2.0, threshold=0.7, rank_by="student")
    p_s, p_t = softened(student[0].tolist(), 2.0), softened(teacher[0].tolist(), 2.0)
    group = group_of(p_s, 0.7)
    rest = [c for c in range(6) if c not in group]
    mass = sum(p_t[c] for c in group)
    tail = 4 * (1 - mass) * kl(spread(p_t, rest), spread(p_s, rest))
    expected = hinton_kl(student, teacher, temperature=2.0).item()
    assert binary.item() + mass * within.item() + tail == pytest.approx(expected, rel=1e-9)


def test_how_the_tail_is_spread_does_not_matter() -> None:
    student = torch.tensor([[9.0, 8.0, 1.0, 2.0]])
    teacher, shuffled = torch.tensor([[9.0, 6.0, 0.0, 3.0]]), torch.tensor([[9.0, 6.0, 3.0, 0.0]])
    plain, changed = (
        gkd_terms(student, logits, temperature=1.0, threshold=0.93, rank_by="student")
        for logits in (teacher, shuffled)
    )
    torch.testing.assert_close(plain, changed)


@pytest.mark.parametrize("threshold", [0.01, 0.9999])
def test_a_group_of_one_or_of_all_has_finite_gradients(threshold: float) -> None:
    student = torch.zeros(2, 3, requires_grad=True)
    terms = gkd_terms(student, random(0, 2, 3), temperature=1.0, threshold=threshold, rank_by="student")
    empty = 0 if threshold < 0.5 else 1  # one class has nothing to spread, no rest has no mass
    torch.testing.assert_close(terms[empty], torch.tensor(0.0))
    assert terms[1 - empty] > 0
    torch.stack(terms).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad != 0).any()


def test_logits_far_apart_stay_finite() -> None:
    student = torch.tensor([[64.0, -64.0, -64.0]], requires_grad=True)
    teacher = torch.tensor([[-64.0, 64.0, 0.0]])
    terms = gkd_terms(student, teacher, temperature=1.0, threshold=0.93, rank_by="student")
    torch.stack(terms).sum().backward()
    # All of the teacher's mass lies in the rest, where the student has log(2 e^-128) of its own.
    assert terms[1].item() == pytest.approx(128 - math.log(2), rel=1e-5)
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("rank_by", ["student", "teacher"])
def test_is_zero_on_equal_logits(rank_by: RankBy) -> None:
    logits = random(0, 5, 4)
    for term in gkd_terms(logits + 1, logits, temperature=4.0, threshold=0.6, rank_by=rank_by):
        torch.testing.assert_close(term, torch.tensor(0.0), rtol=0, atol=1e-5)


def test_the_loss_weighs_its_terms_and_leaves_the_teacher_alone() -> None:
    centre = F.normalize(random(2, 6, 8))
    context = LossContext(student_dim=3, teacher_dim=8, teacher_centre_CD=centre)
    embedding, logits = random(1, 5, 8).requires_grad_(), random(0, 5, 6).requires_grad_()
    loss_fn = GKDSettings(scale=16.0, threshold=0.6).build(context)
    loss = loss_fn(
        student=ModelOutputs(embedding=random(3, 5, 3), logits=logits),
        teacher=ModelOutputs(embedding=embedding),
    )
    within, binary = gkd_terms(
        logits, 16 * F.normalize(embedding) @ centre.T, temperature=4.0, threshold=0.6, rank_by="student"
    )
    torch.testing.assert_close(loss, 8 * within + binary)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad != 0).any(dim=1).all()
    assert embedding.grad is None
    assert not loss_fn.state_dict()


def test_defaults_are_the_published_ones() -> None:
    settings = GKDSettings()
    assert (settings.threshold, settings.primary_weight, settings.binary_weight) == (0.93, 8.0, 1.0)
    assert settings.rank_by == "student"
    assert settings.needs == {"classifier", "teacher_centres"}
    assert not settings.same_width
