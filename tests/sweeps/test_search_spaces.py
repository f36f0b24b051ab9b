"""Every search space that comes with the package can be run: it is tested by being there."""

from pathlib import Path
from typing import Any

import pytest

from sweeps.space import SearchSpace, load_space, packaged_names


def conditions(space: SearchSpace, name: str) -> dict[str, Any]:
    """Values of other parameters under which a parameter exists."""
    pinned: dict[str, Any] = {}
    for other, allowed in space.parameters[name].when.items():
        if other in space.parameters:
            pinned |= {**conditions(space, other), other: allowed[0]}
    return pinned


@pytest.mark.parametrize("name", packaged_names())
def test_both_ends_of_every_parameter_make_a_trial(name: str) -> None:
    space = load_space(name)
    for edge in (0, -1):
        for varied, parameter in space.parameters.items():
            for value in parameter.ends():
                pinned = {**conditions(space, varied), varied: value}
                point = space.point(lambda name, other: pinned.get(name, other.ends()[edge]))  # noqa: B023
                assert varied in space.settings_of(point)
                space.config(point)


@pytest.mark.parametrize("name", packaged_names())
def test_points_that_are_tried_first_make_trials(name: str) -> None:
    space = load_space(name)
    for point in space.search.enqueue:
        assert space.settings_of(point) == point
        space.config(point)


def test_the_first_point_of_synthdistill_is_the_papers() -> None:
    space = load_space("synthdistill")
    (point,) = space.search.enqueue
    config = space.config(point)
    assert point.keys() == space.parameters.keys()
    assert (config.schedule.name, config.schedule.step_epochs, config.schedule.gamma) == ("step", 10, 0.5)
    assert space.first_rung == 11


@pytest.mark.parametrize("name", packaged_names())
def test_a_space_is_called_like_its_file_and_says_what_it_is_for(name: str) -> None:
    space = load_space(name)
    assert space.name == name
    assert space.description


def test_the_readme_leads_to_every_packaged_space() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert [name for name in packaged_names() if f"(search_spaces/{name}.yaml)" not in readme] == []
