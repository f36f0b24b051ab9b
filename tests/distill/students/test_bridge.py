"""The student of Bridge Distillation keeps its budget."""

import torch

from distill.students import BridgeTinySettings


def test_has_the_documented_number_of_weights() -> None:
    convolutions = sum(9 * a * b for a, b in ((3, 32), (32, 32), (32, 64), (64, 64), (64, 96), (96, 96)))
    norms_and_slopes = 3 * (32 + 32 + 64 + 64 + 96 + 96)
    head = 96 * 128 + 128
    student = BridgeTinySettings().build(embedding_dim=128, size_px=32)
    count = sum(parameter.numel() for parameter in student.parameters())
    assert count == convolutions + norms_and_slopes + head == 217_184


def test_one_set_of_weights_serves_every_size() -> None:
    student = BridgeTinySettings().build(embedding_dim=8, size_px=16).eval()
    assert student(torch.zeros(1, 3, 112, 112)).shape == student(torch.zeros(1, 3, 16, 16)).shape
