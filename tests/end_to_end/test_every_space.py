"""Every search space that comes with the package runs as it stands, but for how long and on how much."""

import json
import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from mlflow import MlflowClient
from pydantic import BaseModel

from distill.losses import LossName
from distill.losses.margins import AnyMarginSettings
from distill.methods import AnyMethodSettings
from distill.students import AnyStudentSettings
from distill.teachers.adapter import AdapterSettings, AnyAdapterSettings
from sweeps.space import (
    CategoricalParameter,
    SearchSpace,
    SpaceError,
    load_space,
    packaged_names,
    parse_space,
)
from tests.end_to_end.machine import Machine, RayHead

NUM_TRIALS = 2
TINY = {
    "training.epochs": 1,
    "training.faces_per_epoch": 128,
    "training.batch_size": 32,
    # Two trials of one epoch leave nothing to stop early.
    "scheduler.name": "none",
}
SMALL_SET = {"method.num_classes": 64, "method.images_per_class": 4}
TINY_BY_SPACE: dict[str, dict[str, Any]] = {
    # Blocks that widen nothing keep the budget, whatever else they are.
    "architecture": {f"student.expansion{n}": 1.0 for n in (1, 2, 3, 4)},
    "bridge": SMALL_SET,
    "fair_kd": SMALL_SET | {"method.synthetic_images_per_class": 4},
    "fair_kd_grid": SMALL_SET | {"method.synthetic_images_per_class": 4},
    "fairness_pareto": SMALL_SET,
    "losses_tournament": SMALL_SET,
    "low_resolution": SMALL_SET,
    "mst_kd": SMALL_SET,
    "pareto": {"confirm": "null", "student.name": "bridge_tiny"},
    "quickstart": {"promotion.automatic": "false"},
    "sface": SMALL_SET,
    "students": {"student.name": "pocketnet"},
    "synthdistill": {},
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, ray_head: RayHead) -> Machine:
    """One home for all spaces: its database is made once."""
    return Machine(home=tmp_path_factory.mktemp("spaces") / "home", ray=ray_head)


@pytest.mark.slow
@pytest.mark.parametrize("name", packaged_names())
def test_a_packaged_space_runs(name: str, machine: Machine) -> None:
    space = load_space(name)
    tiny = TINY | TINY_BY_SPACE[name]
    assignments = [text for key, value in tiny.items() for text in ("--set", f"{key}={value}")]
    options = ("--trials", str(NUM_TRIALS), "--json")
    done = machine.run("run", name, *options, *assignments, timeout=300)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    trials = document["trials"]
    assert [(trial["state"], trial["reason"]) for trial in trials] == [("complete", None)] * NUM_TRIALS
    client = MlflowClient(tracking_uri=document["tracking_uri"])
    for trial in trials:
        assert trial["epochs"] == 1
        assert all(math.isfinite(trial["metrics"][objective.metric]) for objective in space.objectives)
        params = client.get_run(trial["run_id"]).data.params
        assert params["method.name"] == space.fixed("method.name")
        assert trial["parameters"]
        for key, value in trial["parameters"].items():
            assert params[key] == str(value)
    assert all(math.isfinite(document["teacher"][o.metric]) for o in space.objectives)
    assert machine.wait_until_quiet() == []


def test_every_packaged_space_is_run_tiny() -> None:
    assert sorted(TINY_BY_SPACE) == packaged_names()


def tags(union: Any) -> list[str]:
    """The names by which the members of a discriminated union are chosen."""
    members: tuple[type[BaseModel], ...] = get_args(get_args(union)[0])
    return [name for member in members for name in get_args(member.model_fields["name"].annotation)]


def choices(model: type[BaseModel], field: str) -> list[str]:
    return list(get_args(model.model_fields[field].annotation))


def named(space: SearchSpace, setting: str) -> Iterator[str]:
    """The values that a space gives a setting, in base or as a choice."""
    if (fixed := space.fixed(setting)) is not None:
        yield fixed
    if isinstance(parameter := space.parameters.get(setting), CategoricalParameter):
        yield from map(str, parameter.choices)


def named_losses(space: SearchSpace) -> Iterator[str]:
    """The losses that a space chooses by name, weighs or sets."""
    yield from named(space, "losses.only")
    yield from space.base.get("losses", {})
    yield from (name.split(".")[1] for name in space.parameters if name.startswith("losses."))


EVERYTHING = {
    "method.name": tags(AnyMethodSettings),
    "margin.name": tags(AnyMarginSettings),
    # tinyfar needs timm, which packaged spaces do without.
    "student.name": [name for name in tags(AnyStudentSettings) if name != "tinyfar"],
    "method.adapter.name": tags(AnyAdapterSettings),
    # `none` regression leaves out what the adapter is for.
    "method.adapter.regression": [name for name in choices(AdapterSettings, "regression") if name != "none"],
    "method.adapter.compactness": choices(AdapterSettings, "compactness"),
    "losses": list(get_args(LossName)),
}


@pytest.mark.parametrize("setting", EVERYTHING)
def test_every_choice_is_made_by_a_packaged_space(setting: str) -> None:
    spaces = [load_space(name) for name in packaged_names()]
    found = {
        value
        for space in spaces
        for value in (named_losses(space) if setting == "losses" else named(space, setting))
    }
    assert EVERYTHING[setting]
    assert sorted(set(EVERYTHING[setting]) - found) == []


SPACE = """\
name: study
objectives:
  - {{metric: validation/verification_accuracy, direction: maximize}}
base:
  method: {{{method}}}
  training: {{epochs: 4, faces_per_epoch: 1024, batch_size: 64}}
  {base}
parameters:
  optimizer.lr: {{type: float, low: 1e-4, high: 1e-2, log: true}}
  {parameter}
search: {{num_trials: 4}}
"""
SET = "num_classes: 64, images_per_class: 8"
SFACE, TRANSFER = f"name: sface, {SET}", f"name: sface, strategy: transfer, {SET}"
CLASSIFICATION = f"name: sface, strategy: classification, {SET}"


def refusals(*, method: str, base: str = "", parameter: str = "") -> list[str]:
    """What is wrong with a space, without the places in its file."""
    text = SPACE.format(method=method, base=base, parameter=parameter)
    with pytest.raises(SpaceError) as caught:
        parse_space(text, file="study.yaml")
    return [problem.partition(": ")[2] for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("method", "base", "sentence"),
    [
        (
            "name: synthdistill",
            "losses: {only: proxyless}",
            "losses.proxyless needs labels and teacher_centres, which method synthdistill does not offer",
        ),
        (
            TRANSFER,
            "losses: {hinton_kl: {weight: 1.0}}",
            "losses.hinton_kl needs classifier, which method sface (transfer) does not offer",
        ),
        (
            SFACE,
            "losses: {fskd: {weight: 1.0}}",
            "losses.fskd needs paired_views, which method sface (combined) does not offer",
        ),
        (
            SFACE,
            "losses: {ekd: {weight: 1.0}}",
            "losses.ekd needs positives, which method sface (combined) does not offer",
        ),
        (
            SFACE,
            "embedding_dim: 64",
            "embedding_dim must be 128 for losses.cosine, which needs embeddings as wide as those imitated, "
            "got 64",
        ),
        (
            TRANSFER,
            "margin: {name: arcface}",
            "margin must not be set where method sface (transfer) classifies nothing, got arcface",
        ),
        (
            CLASSIFICATION,
            "losses: {cosine: {weight: 1.0}}",
            "losses must not be set where method sface (classification) imitates no teacher, got cosine",
        ),
        (
            f"name: sface, faces_per_class: 16, {SET}",
            "",
            "method.faces_per_class must be at most the 8 images of a class, got 16",
        ),
    ],
)
def test_a_base_whose_parts_do_not_get_on_is_refused_in_a_sentence(
    method: str, base: str, sentence: str
) -> None:
    assert refusals(method=method, base=base) == [f"base is refused: {sentence}"]


@pytest.mark.parametrize(
    ("method", "base", "name", "choices", "sentence"),
    [
        (
            "name: synthdistill",
            "",
            "losses.only",
            "cosine, proxyless, raw_mse",
            "'proxyless': losses.proxyless needs labels and teacher_centres, which method synthdistill does "
            "not offer",
        ),
        (
            TRANSFER,
            "",
            "losses.only",
            "cosine, hinton_kl, raw_mse",
            "'hinton_kl': losses.hinton_kl needs classifier, which method sface (transfer) does not offer",
        ),
        (
            SFACE,
            "",
            "losses.only",
            "cosine, fskd, raw_mse",
            "'fskd': losses.fskd needs paired_views, which method sface (combined) does not offer",
        ),
        (
            SFACE,
            "",
            "losses.only",
            "cosine, ekd, raw_mse",
            "'ekd': losses.ekd needs positives, which method sface (combined) does not offer",
        ),
        (
            SFACE,
            "embedding_dim: 64",
            "losses.only",
            "rkd, cosine, fitnet",
            "'cosine': embedding_dim must be 128 for losses.cosine, which needs embeddings as wide as those "
            "imitated, got 64",
        ),
        (
            SFACE,
            "margin: {name: arcface}",
            "method.strategy",
            "combined, transfer, classification",
            "'transfer': margin must not be set where method sface (transfer) classifies nothing, got "
            "arcface",
        ),
        (
            SFACE,
            "losses: {cosine: {weight: 1.0}}",
            "method.strategy",
            "combined, classification, transfer",
            "'classification': losses must not be set where method sface (classification) imitates no "
            "teacher, got cosine",
        ),
        (
            SFACE,
            "",
            "method.faces_per_class",
            "1, 5, 4",
            "5: method.faces_per_class must divide training.batch_size (64), got 5",
        ),
        (
            "name: sface, num_classes: 16, images_per_class: 8",
            "",
            "method.faces_per_class",
            "1, 2, 4",
            "2: method.num_classes must be at least the 32 of a batch, got 16",
        ),
    ],
)
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_choice_that_does_not_get_on_with_the_rest_is_refused_in_a_sentence(
    method: str, base: str, name: str, choices: str, sentence: str, turn: int
) -> None:
    listed = choices.split(", ")
    turned = ", ".join(listed[turn:] + listed[:turn])
    parameter = f"{name}: {{type: categorical, choices: [{turned}]}}"
    found = refusals(method=method, base=base, parameter=parameter)
    assert found == [f"parameters.{name} must not be {sentence}"]
