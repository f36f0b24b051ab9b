"""Every search space that comes with the package can be run: it is tested by being there."""

import pytest

from sweeps.space import load_space, packaged_names


@pytest.mark.parametrize("name", packaged_names())
def test_both_ends_of_every_parameter_make_a_trial(name: str) -> None:
    space = load_space(name)
    for edge in (0, -1):
        background = {other: parameter.ends()[edge] for other, parameter in space.parameters.items()}
        for varied, parameter in space.parameters.items():
            for value in parameter.ends():
                point = {**background, varied: value}
                existing = {other: point[other] for other in point if space.exists(other, point)}
                space.config(existing)


@pytest.mark.parametrize("name", packaged_names())
def test_a_space_is_called_like_its_file_and_says_what_it_is_for(name: str) -> None:
    space = load_space(name)
    assert space.name == name
    assert space.description
