"""How closely a student follows its teacher."""

import pytest
import torch
import torch.nn.functional as F

from distill.evaluation import evaluate_agreement
from distill.students import BridgeTinySettings


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return BridgeTinySettings().build(embedding_dim=8, size_px=16).eval()


FACES = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_network_agrees_with_itself() -> None:
    student = network(0)
    agreement = evaluate_agreement(student, FACES, student(FACES), prefix="validation")
    assert agreement == pytest.approx({"validation/teacher_mse": 0.0, "validation/teacher_similarity": 1.0})


def test_batches_do_not_change_the_means() -> None:
    student, teacher = network(0), network(1)
    agreement = evaluate_agreement(student, FACES, teacher(FACES), prefix="validation", batch_size=3)
    with torch.no_grad():
        s, t = student(FACES), teacher(FACES)
    assert agreement["validation/teacher_mse"] == pytest.approx(F.mse_loss(s, t).item(), rel=1e-5)
    assert agreement["validation/teacher_similarity"] == pytest.approx(
        F.cosine_similarity(s, t).mean().item(), rel=1e-5
    )


def test_the_student_comes_back_in_training_mode() -> None:
    student, teacher = network(0).train(), network(1)
    evaluate_agreement(student, FACES, teacher(FACES), prefix="validation")
    assert student.training
