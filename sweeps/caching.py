"""The teacher's embeddings of sets that are read from disk, made by the whole cluster before the trials.

A trial that finds no cache builds it, and trials that need the same one build it together. But the first
trials may be few, or hold few of the cluster's CPUs and GPUs. Where the search space tells beforehand which
caches will be needed, as many Ray tasks as fit build them first.
"""

import functools
import math
import time
from itertools import product
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError

from distill.config import TrialConfig
from distill.embedding_cache import DAMAGED, EmbeddingCache, EmbedImages, embed_images
from distill.errors import InputError
from distill.methods import LabelledSettings
from distill.methods.labelled import TEACHER_IS_ASKED
from distill.training import Process
from distill.training.parts import moved
from sweeps.home import Home
from sweeps.space import CategoricalParameter, SearchSpace
from sweeps.terminal import SweepDisplay
from sweeps.worker_setup import see_own_gpus_only

POLL_S = 0.5
SEEN_BY = "method.augmentation.seen_by"


def cache_folder(home: Home) -> Path:
    """Where a home keeps embedding caches."""
    return home.root / "cache" / "embeddings"


def build_caches(space: SearchSpace, *, home: Home, concurrent: int, display: SweepDisplay) -> None:
    """Builds the caches that trials of this space are known to need; what is there already is left.

    Args:
        concurrent: How many trials run at once.

    Raises:
        InputError: If faces or teacher do not load, or the cache cannot be written.
    """
    if "both" in _values(space, SEEN_BY):
        display.note(TEACHER_IS_ASKED)
    for config in distinct_sets(space):
        # Faces that a generator draws live in the memory of the process that drew them: each task would draw
        # the whole set before its first part, which trials do anyway. On two cores, 16,384 faces of the
        # embedded world take two tasks 16 s and one trial 12 s, of which two trials share 9.
        if not config.faces.draws:
            build_cache(
                config, folder=cache_folder(home), space=space, concurrent=concurrent, display=display
            )


def build_cache(
    config: TrialConfig, *, folder: Path, space: SearchSpace, concurrent: int, display: SweepDisplay
) -> None:
    """Builds the cache that a trial needs, in as many Ray tasks as trials have workers.

    Raises:
        InputError: As `build_caches`.
    """
    cache = _cache_of(config, folder=folder, device=torch.device("cpu"))[0]
    num_before = cache.num_parts_done()
    num_missing = cache.num_parts - num_before
    if num_missing <= 1:
        return  # nothing to share: the first trial does it in less time than a task takes to start
    resources = space.resources
    num_tasks = min(num_missing, concurrent * resources.workers_per_trial)
    tasks = [
        _help.options(num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker).remote(
            config.model_dump(mode="json"), folder, resources.num_threads
        )
        for _ in range(num_tasks)
    ]
    began = time.monotonic()
    try:
        while tasks:
            ended, tasks = ray.wait(tasks, timeout=POLL_S)
            ray.get(ended)
            num_done = cache.num_parts_done()
            share = (num_done - num_before) / cache.num_parts
            pace = share * cache.identity.num_images / (time.monotonic() - began)
            display.caching(num_done, cache.num_parts, images_per_second=pace)
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from error
        raise
    finally:
        for task in tasks:
            ray.cancel(task, force=True)
        display.caching_ended()


def tell_of_damage(home: Home, display: SweepDisplay) -> None:
    """Says which caches were found damaged, and kept beside those that took their places."""
    for folder in sorted(cache_folder(home).glob(f"*{DAMAGED}")):
        display.note(f"an embedding cache was damaged and has been built again: {folder} can be deleted")


@ray.remote
def _help(config: dict[str, Any], folder: Path, num_threads: int) -> None:
    """Builds a cache together with others, to its end."""
    see_own_gpus_only()
    torch.set_num_threads(num_threads)
    device = Process.current().device
    cache, embed = _cache_of(TrialConfig.model_validate(config), folder=folder, device=device)
    cache.load(embed)


def _cache_of(
    config: TrialConfig, *, folder: Path, device: torch.device
) -> tuple[EmbeddingCache, EmbedImages]:
    """The cache that a trial on a labelled set needs, and what builds it."""
    assert isinstance(config.method, LabelledSettings)
    teacher = moved(config.teacher.load(), device)
    faces = config.method.draw(config.faces)
    cache = config.method.cache(faces, size_px=config.faces.sharp_px, teacher=teacher, directory=folder)
    return cache, functools.partial(embed_images, faces=faces, teacher=teacher, device=device)


def distinct_sets(space: SearchSpace) -> list[TrialConfig]:
    """A trial for each set and teacher that the search will meet; none where that cannot be told.

    It can where sets and teachers differ by choices alone, and there are not more of them than trials.
    """
    deciding = {name: parameter for name, parameter in space.parameters.items() if _decides(name)}
    choices = [p.choices for p in deciding.values() if isinstance(p, CategoricalParameter)]
    if len(choices) < len(deciding) or math.prod(map(len, choices)) > space.search.num_trials:
        return []
    found: dict[tuple[str, str, str], TrialConfig] = {}
    for values in product(*choices):
        chosen = dict(zip(deciding, values, strict=True))
        config = space.config(space.point(lambda name, p, chosen=chosen: chosen.get(name, p.ends()[0])))
        method = config.method
        if isinstance(method, LabelledSettings) and not method.augmentation.reaches_teacher:
            key = (method.set_of(config.faces), config.teacher.model_dump_json(), method.cache_dtype)
            found.setdefault(key, config)
    return list(found.values())


def _decides(name: str) -> bool:
    """Whether a setting decides which cache a trial needs."""
    group, _, setting = name.partition(".")
    if group == "method":
        beside = LabelledSettings.BESIDE_THE_SET - {"cache_dtype"}
        return setting.partition(".")[0] not in beside
    return group in ("faces", "teacher")


def _values(space: SearchSpace, name: str) -> tuple[Any, ...]:
    """The values that trials may have for a setting, where the space names any."""
    parameter = space.parameters.get(name)
    return (space.fixed(name),) if parameter is None else parameter.ends()
