"""Which embedding caches a search is known to need, and that the cluster builds them before the trials."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from distill.config import TrialConfig
from distill.embedding_cache import EmbeddingCache
from distill.errors import InputError
from distill.methods import LabelledSettings
from sweeps import cluster
from sweeps.caching import _cache_of, build_cache, distinct_sets
from sweeps.capture import captured_output
from sweeps.space import SearchSpace, load_space, parse_space
from sweeps.terminal import SweepDisplay

# isort: split
import ray

SPACE = """
name: s
objectives: [{{metric: validation/verification_accuracy, direction: maximize}}]
base:
  faces: {{name: embedded{faces}}}
  method: {{name: sface, num_classes: 1025, images_per_class: 4{method}}}
parameters:
  optimizer.lr: {{type: float, low: 1e-3, high: 1e-2, log: true}}
  method.strategy: {{type: categorical, choices: [combined, transfer]}}
{parameters}
search: {{num_trials: {num_trials}}}
"""


def space(*parameters: str, method: str = "", num_trials: int = 8) -> SearchSpace:
    """A space of one set of 4,100 faces of 16 px, but for what `parameters` say."""
    lines = "".join(f"  {parameter}\n" for parameter in parameters)
    faces = "" if "faces.size_px" in lines else ", size_px: 16"
    text = SPACE.format(parameters=lines, faces=faces, method=method, num_trials=num_trials)
    return parse_space(text, file="s.yaml")


def decisive(config: TrialConfig) -> tuple[Any, ...]:
    """What sets differ by in these spaces."""
    assert isinstance(config.method, LabelledSettings)
    return config.faces.size_px, config.method.images_per_class, config.method.cache_dtype


@pytest.mark.parametrize(
    ("parameters", "sets"),
    [
        ([], [(16, 4, "float32")]),
        (["faces.size_px: {type: categorical, choices: [16, 24]}"], [(16, 4, "float32"), (24, 4, "float32")]),
        (
            ["method.cache_dtype: {type: categorical, choices: [float32, float16]}"],
            [(16, 4, "float32"), (16, 4, "float16")],
        ),
        (["method.faces_per_class: {type: categorical, choices: [1, 2]}"], [(16, 4, "float32")]),
        (["method.augmentation.brightness: {type: float, low: 0.0, high: 0.5}"], [(16, 4, "float32")]),
    ],
)
def test_every_set_that_choices_lead_to_is_found_once(parameters: list[str], sets: list[tuple]) -> None:
    assert [decisive(config) for config in distinct_sets(space(*parameters))] == sets


def test_choices_that_hold_under_a_condition_are_found_with_it() -> None:
    conditional = space(
        "faces.size_px: {type: categorical, choices: [16, 24]}",
        "faces.captured_px: {type: categorical, choices: [24, 32], when: {faces.size_px: 24}}",
    )
    found = [(config.faces.size_px, config.faces.captured_px) for config in distinct_sets(conditional)]
    assert found == [(16, None), (24, 24), (24, 32)]


@pytest.mark.parametrize(
    ("parameters", "num_trials"),
    [
        (["faces.size_px: {type: int, low: 16, high: 24}"], 20),
        (["faces.size_px: {type: categorical, choices: [16, 20, 24]}"], 2),
    ],
)
def test_sets_that_no_trial_may_meet_are_left_to_trials(parameters: list[str], num_trials: int) -> None:
    assert distinct_sets(space(*parameters, num_trials=num_trials)) == []


def test_nothing_is_cached_where_the_teacher_sees_augmented_faces_or_faces_have_no_end() -> None:
    both = space(method=", augmentation: {seen_by: both, brightness: 0.2}")
    assert distinct_sets(both) == []
    assert distinct_sets(load_space("quickstart")) == []


def test_the_packaged_spaces_sets() -> None:
    assert {
        name: len(distinct_sets(load_space(name)))
        for name in ("sface", "losses_tournament", "mst_kd", "low_resolution", "fairness_pareto")
    } == {"sface": 3, "losses_tournament": 1, "mst_kd": 1, "low_resolution": 12, "fairness_pareto": 0}


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with cluster.connected(None):
        yield


class Impatient(SweepDisplay):
    """A display whose person presses Ctrl-C once there is a part."""

    def caching(self, num_done: int, num_parts: int, *, images_per_second: float) -> None:
        super().caching(num_done, num_parts, images_per_second=images_per_second)
        if num_done:
            raise KeyboardInterrupt


def build(folder: Path, *, kind: type[SweepDisplay] = SweepDisplay) -> EmbeddingCache:
    """Builds the cache of `space()`, of two parts, in two tasks, and tells of it as to a pipe."""
    searched = space()
    (config,) = distinct_sets(searched)
    with captured_output() as captured:
        display = kind(searched, captured, Console(file=captured.out), mode="plain")
        build_cache(config, folder=folder, space=searched, concurrent=2, display=display)
    return _cache_of(config, folder=folder, device=torch.device("cpu"))[0]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_tasks_build_a_cache_with_what_the_teacher_says_and_tell_how_far_they_are(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = build(tmp_path)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("caching the teacher's embeddings: ")
    assert re.fullmatch(r"caching the teacher's embeddings: 2/2 parts, [\d,]+ images a second", lines[-1])
    (config,) = distinct_sets(space())
    _, embed = _cache_of(config, folder=tmp_path, device=torch.device("cpu"))

    def ask(images: range) -> torch.Tensor:
        raise AssertionError(f"{images} should be cached")

    found = cache.load(ask)
    some = range(3840, 4096)
    assert torch.equal(found[:, some.start : some.stop], embed(some))

    build(tmp_path)
    assert capfd.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_ctrl_c_ends_the_tasks_and_keeps_what_they_had_finished(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, kind=Impatient)
    deadline = time.monotonic() + 30
    while (taken := _cpus_taken()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert taken == 0
    cache = build(tmp_path)  # leaves a single part to the first trial
    assert cache.num_parts_done() == 1
    (config,) = distinct_sets(space())
    _, embed = _cache_of(config, folder=tmp_path, device=torch.device("cpu"))
    asked: list[int] = []

    def ask(images: range) -> torch.Tensor:
        asked.append(len(images))
        return embed(images)

    cache.load(ask)
    assert asked in ([4], [4096])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_what_stops_a_task_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"the embedding cache .* must be a folder with room for another"):
        build(tmp_path / "file")


def _cpus_taken() -> float:
    return ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0.0)
