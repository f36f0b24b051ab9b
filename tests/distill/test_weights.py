"""Tensors that do not fill a network, and what is said of them."""

import pytest
import torch

from distill.weights import misfit, some

EXPECTED = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"a": torch.ones(2, 3), "b": torch.ones(4)}, None),
        ({"a": torch.ones(2, 3)}, "it lacks b and has nothing too many"),
        ({"a": torch.ones(2, 3), "b": torch.ones(4), "c": torch.ones(1)}, "lacks nothing and has c too many"),
        ({"a": torch.ones(3, 2), "b": torch.ones(4)}, "a has shape (3, 2), expected (2, 3)"),
    ],
)
def test_every_tensor_must_be_there_and_no_other(
    weights: dict[str, torch.Tensor], reason: str | None
) -> None:
    found = misfit(weights, EXPECTED)
    assert found == reason or (reason and found and found.endswith(reason))


def test_three_names_stand_for_many() -> None:
    assert some(["d", "c", "b", "a"]) == "a, b, c and 1 more"
    assert some([]) == "nothing"
