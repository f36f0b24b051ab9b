"""How one trial runs on Ray: in place, inside Tune's own actor, or over several Ray Train workers.

Both ways run `distill.training.worker.train_worker` under a `TorchTrainer`. In place there are no other
processes, so a trial costs a fraction of a second beside its training, and an actor keeps the teacher,
the generator and the validation faces from one trial to the next. Distributed, the workers hold one
student and share every batch.
"""

import tempfile
from pathlib import Path
from typing import Any

import ray.train
import ray.tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.train.torch import TorchTrainer

from distill.checkpoint import link_state, take_over_state
from distill.training.worker import train_worker
from sweeps.depot import Depot
from sweeps.distributed import DistributedTrial
from sweeps.space import ResourcesSettings
from sweeps.task import TrialTask, loop_config, on_copies
from sweeps.worker_setup import see_own_gpus_only

# Ray's memory resource, in bytes, exists on every node. A byte of it lets Tune place a trial that itself
# needs no CPU beside the workers that do: CPU fractions would eat into what the workers can have.
COORDINATOR = {"memory": 1.0}

OWNER = "trial"
"""What the metadata of a shared state says of whose it is."""


def run_in_place(
    task: TrialTask,
    *,
    num_threads: int,
    cache: Path | None,
    depot: Depot | None,
    share_epochs: int | None = None,
) -> None:
    """A Tune function: trains in the trial's own actor.

    Args:
        depot: Hands on what the trial leaves; None where machines share the home.
        share_epochs: Every so many epochs the state is shared with a population's other trials, which may go
            on from it. Where Tune hands over another trial's, this one does.
    """
    see_own_gpus_only()
    shared = ray.tune.get_checkpoint()
    if shared is not None:  # Tune let it wait, or moves it: nobody died, all was heard of
        task = {**task, "told_epochs": None}

    def report(metrics: dict[str, float], checkpoint: Path) -> None:
        if share_epochs is None or int(metrics["epoch"]) % share_epochs:
            ray.tune.report(metrics)
            return
        with tempfile.TemporaryDirectory(dir=checkpoint, prefix=".shared-") as folder:
            link_state(checkpoint, Path(folder))
            state = ray.tune.Checkpoint.from_directory(folder)
            state.set_metadata({OWNER: task["number"]})
            ray.tune.report(metrics, checkpoint=state)

    with on_copies(depot, task):
        if shared is not None and shared.get_metadata()[OWNER] != task["number"]:
            with shared.as_directory() as donor:
                take_over_state(Path(donor), Path(task["directory"]))
        TorchTrainer(
            train_worker,
            train_loop_config=loop_config(
                task, num_threads=num_threads, num_workers=0, report=report, cache=cache, depot=depot
            ),
            scaling_config=ray.train.ScalingConfig(num_workers=0),
        ).fit()


class MemoryKillError(OutOfMemoryError, RayActorError):
    """Ray ended a trial's actor, because the memory of its node ran out."""

    def __init__(self, message: str):
        RayActorError.__init__(self)
        OutOfMemoryError.__init__(self, message)


_task_failed = RayActorManager._actor_task_failed


def _task_failed_or_killed(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
    """Takes an actor that was ended for its memory for one that died.

    Ray's error for it is neither of the two that Tune expects: it would end the whole sweep.
    """
    if isinstance(exception, OutOfMemoryError) and not isinstance(exception, RayTaskError):
        exception = MemoryKillError(str(exception).splitlines()[0])
    _task_failed(self, tracked_actor_task, exception)


RayActorManager._actor_task_failed = _task_failed_or_killed


def trainable(
    resources: ResourcesSettings,
    *,
    storage_path: str,
    cache: Path | None = None,
    depot: Depot | None = None,
    distributed: bool | None = None,
    share_epochs: int | None = None,
) -> Any:
    """What Tune runs for each trial, with the resources that each needs.

    Args:
        storage_path: Where Ray Train may write, on every node.
        cache: Where teachers' embeddings are kept for all trials, on every node. None: each trial's process
            keeps its own.
        depot: Hands on what trials leave; None where the nodes share the home.
        distributed: Whether a trial has workers of its own. None: when there are several.
        share_epochs: How often trials in place share their state with one another. None: never.
    """
    if not (distributed or resources.workers_per_trial > 1):
        function = ray.tune.with_parameters(
            run_in_place,
            num_threads=resources.num_threads,
            cache=cache,
            depot=depot,
            share_epochs=share_epochs,
        )
        return ray.tune.with_resources(function, resources.per_worker())
    coordinated = ray.tune.with_parameters(
        DistributedTrial, resources=resources, storage_path=storage_path, cache=cache, depot=depot
    )
    return ray.tune.with_resources(coordinated, COORDINATOR)
