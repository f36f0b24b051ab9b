"""Which stages are compared, and at what size."""

import pytest
import torch

from distill.losses.feature_maps import at_smaller_size, paired_from_last


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        ("abc", "xyz", [("a", "x"), ("b", "y"), ("c", "z")]),
        ("bc", "xyz", [("b", "y"), ("c", "z")]),
        ("abc", "z", [("c", "z")]),
    ],
)
def test_stages_are_paired_from_the_last(student: str, teacher: str, pairs: list[tuple[str, str]]) -> None:
    assert paired_from_last(student, teacher) == pairs


def test_refuses_a_network_without_stages() -> None:
    with pytest.raises(ValueError, match="got 0 of the student and 2 of the teacher"):
        paired_from_last([], [1, 2])


def test_the_larger_map_is_averaged_down() -> None:
    large = torch.arange(16.0).reshape(1, 1, 4, 4)
    small = torch.zeros(1, 3, 2, 2)
    expected = torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]])
    for left, right in (at_smaller_size(large, small), at_smaller_size(small, large)[::-1]):
        torch.testing.assert_close(left, expected)
        assert right is small


def test_height_and_width_are_chosen_apart() -> None:
    student, teacher = at_smaller_size(torch.ones(2, 3, 4, 2), torch.ones(2, 5, 3, 6))
    assert student.shape == (2, 3, 3, 2)
    assert teacher.shape == (2, 5, 3, 2)
