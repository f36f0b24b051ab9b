"""The page on search spaces is what it says: its files are valid, its tables hold every key and default."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from distill.settings import Settings
from sweeps.space import (
    BudgetSettings,
    CategoricalParameter,
    ConfirmSettings,
    FloatParameter,
    IntParameter,
    KeepSettings,
    PromotionSettings,
    ResourcesSettings,
    SchedulerSettings,
    SearchSettings,
    SearchSpace,
    parse_space,
)
from sweeps.space.settings import SamplerName

PAGE = Path(__file__).parents[2] / "docs" / "search_spaces.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
SECTIONS = {part.partition("\n")[0].strip("`"): part for part in TEXT.split("\n## ")[1:]}
KEYS: dict[str, tuple[type[Settings], ...]] = {
    "The file": (SearchSpace,),
    "Parameters": (FloatParameter, IntParameter, CategoricalParameter),
    "search": (SearchSettings,),
    "scheduler": (SchedulerSettings,),
    "budget": (BudgetSettings,),
    "confirm": (ConfirmSettings,),
    "keep": (KeepSettings,),
    "resources": (ResourcesSettings,),
    "promotion": (PromotionSettings,),
}


def rows(section: str) -> dict[str, list[str]]:
    """The cells behind each key of a section's first table."""
    table = re.search(r"(?:^\|.*\n)+", SECTIONS[section], flags=re.MULTILINE)
    assert table is not None
    lines = [re.split(r" *\| *", line)[1:-1] for line in table[0].splitlines()[2:]]
    return {key: cells for first, *cells in lines for key in re.findall(r"`([^`]+)`", first)}


@pytest.mark.parametrize("block", BLOCKS)
def test_every_file_of_the_page_is_valid(block: str) -> None:
    space = parse_space(block, file=str(PAGE))
    assert space.config(space.first_point())
    assert parse_space(space.to_yaml(), file="space.yaml") == space


def test_the_example_has_every_section() -> None:
    missing = (
        SearchSpace.model_fields.keys() - {"selection"} - parse_space(BLOCKS[0], file="x").model_fields_set
    )
    assert missing == set()


@pytest.mark.parametrize("section", KEYS)
def test_every_key_has_a_row_and_no_other(section: str) -> None:
    fields = {name for model in KEYS[section] for name in model.model_fields}
    assert rows(section).keys() == fields | ({"extends"} if section == "The file" else set())


@pytest.mark.parametrize("section", [name for name in KEYS if "| default |" in SECTIONS[name]])
def test_the_defaults_are_those_of_the_code(section: str) -> None:
    for name, cells in rows(section).items():
        field = KEYS[section][0].model_fields[name]
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        assert cells[0].strip("`") == written(default), name


def written(default: Any) -> str:
    """A default as the page has it; nothing where there is none."""
    if isinstance(default, float):
        return f"{default:g}"
    return "" if default in (None, (), {}) else str(default).lower()


def test_every_sampler_is_described() -> None:
    table = SECTIONS["search"].rpartition("| sampler |")[2]
    assert set(re.findall(r"`(\w+)`", table)) >= set(get_args(SamplerName))
