"""How one trial runs on Ray: in place, inside Tune's own actor, or over several Ray Train workers.

Both ways run `distill.training.worker.train_worker` under a `TorchTrainer`. In place there are no other
processes, so a trial costs a fraction of a second beside its training, and an actor keeps the teacher,
the generator and the validation faces from one trial to the next. Distributed, the workers hold one
student and share every batch.
"""

import contextlib
import queue
import tempfile
import threading
from pathlib import Path
from typing import Any, TypedDict, cast

import ray
import ray.train
import ray.tune
from ray._raylet import PlacementGroupID
from ray.actor import ActorHandle
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.tune.result import RESULT_DUPLICATE
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.queue import Empty, Queue

from distill.checkpoint import link_state, take_over_state
from distill.training import Report
from distill.training.worker import WorkerTask, train_worker
from sweeps.space import ResourcesSettings
from sweeps.space.parameters import Scalar
from sweeps.worker_setup import WorkerSetup, see_own_gpus_only

PEER_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What a worker says in whose collective another has died."""

POLL_S = 0.5
ABORT_TIMEOUT_S = 15
WORKER_START_TIMEOUT_S = 180

# Ray's memory resource, in bytes, exists on every node. A byte of it lets Tune place a trial that itself
# needs no CPU beside the workers that do: CPU fractions would eat into what the workers can have.
COORDINATOR = {"memory": 1.0}

HELD = "workers.txt"
"""Names the placement group of a trial's workers, in its directory."""

OWNER = "trial"
"""What the metadata of a shared state says of whose it is."""


class TrialTask(TypedDict):
    """What Tune hands to a trial.

    Attributes:
        number: Optuna's.
        config: A `TrialConfig` in plain types.
        directory: Where its state and its best student are kept.
        continue_from: Another trial's directory, whose state is taken over.
        accumulation: How many times the config's portions each batch is trained in, where memory is short.
        timeout_s: How long it may run, in seconds.
        spared: Whether no scheduler may stop it: it trains a point again, with a further seed.
        point: The space's parameters, by dotted name.
    """

    number: int
    config: dict[str, Any]
    directory: str
    continue_from: str | None
    accumulation: int
    timeout_s: float | None
    spared: bool
    point: dict[str, Scalar]


def run_in_place(
    task: TrialTask, *, num_threads: int, cache: Path | None, share_epochs: int | None = None
) -> None:
    """A Tune function: trains in the trial's own actor.

    Args:
        share_epochs: Every so many epochs the state is shared with a population's other trials, which may go
            on from it. Where Tune hands over another trial's, this one does.
    """
    see_own_gpus_only()
    shared = ray.tune.get_checkpoint()
    if shared is not None and shared.get_metadata()[OWNER] != task["number"]:
        with shared.as_directory() as donor:
            take_over_state(Path(donor), Path(task["directory"]))

    def report(metrics: dict[str, float], checkpoint: Path) -> None:
        if share_epochs is None or int(metrics["epoch"]) % share_epochs:
            ray.tune.report(metrics)
            return
        with tempfile.TemporaryDirectory(dir=checkpoint, prefix=".shared-") as folder:
            link_state(checkpoint, Path(folder))
            state = ray.tune.Checkpoint.from_directory(folder)
            state.set_metadata({OWNER: task["number"]})
            ray.tune.report(metrics, checkpoint=state)

    TorchTrainer(
        train_worker,
        train_loop_config=_loop_config(
            task, num_threads=num_threads, num_workers=0, report=report, cache=cache
        ),
        scaling_config=ray.train.ScalingConfig(num_workers=0),
    ).fit()


class LostWorkerError(WorkerCrashedError):
    """A worker of a distributed trial is gone.

    No actor's error, which Ray has for it: Tune would take it for the trial's own actor's.
    """

    def __str__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] - Ray's says nothing
        return str(self.args[0])


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


class DistributedTrial(ray.tune.Trainable):
    """A Tune trainable that coordinates Ray Train workers, and leaves nothing behind when it is stopped.

    The reports travel through a queue of the trial's own, and the trial holds the Train controller's
    handle: `cleanup` aborts it, which ends its workers and frees their placement group at once, whatever
    state Ray's dashboard is in.
    """

    def setup(self, config: dict[str, Any], **parameters: Any) -> None:
        """Starts the training.

        Args:
            config: A `TrialTask`.
            parameters: `resources`, the space's, `storage_path`, where Ray Train may write, and `cache`,
                where teachers' embeddings are kept.
        """
        resources: ResourcesSettings = parameters["resources"]
        task = cast(TrialTask, config)
        self._reports = Queue(maxsize=1, actor_options={"num_cpus": 0})
        self._controllers = Queue(actor_options={"num_cpus": 0})
        self._ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._last: dict[str, Any] = {}
        trainer = TorchTrainer(
            train_worker,
            train_loop_config=_loop_config(
                task,
                num_threads=resources.num_threads,
                num_workers=resources.workers_per_trial,
                report=_QueueReport(self._reports),
                cache=parameters["cache"],
            ),
            torch_config=WorkerSetup(),
            scaling_config=ray.train.ScalingConfig(
                num_workers=resources.workers_per_trial,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=resources.per_worker(),
            ),
            run_config=ray.train.RunConfig(
                name=f"{task['number']:04d}-{self.trial_id}",
                storage_path=parameters["storage_path"],
                failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=2),
                # Ray takes its internal callbacks too, though it promises the user's alone.
                callbacks=cast(Any, [_TellOfWorkers(self._controllers, Path(task["directory"]))]),
            ),
        )
        threading.Thread(target=self._fit, args=(trainer,), daemon=True).start()

    def step(self) -> dict[str, Any]:
        """The next epoch's report; once the training has returned, the last one again, marked as such."""
        while True:
            try:
                self._last = self._reports.get(timeout=POLL_S)
                return dict(self._last)
            except Empty:
                pass
            if self._ended.empty():
                continue
            if (error := self._ended.get()) is not None:
                raise _first_cause(error)
            if not self._reports.empty():
                self._ended.put(None)
                continue
            return {**self._last, "done": True, RESULT_DUPLICATE: True}

    def cleanup(self) -> None:
        """Aborts the training if it still runs."""
        if self._ended.empty() and not self._controllers.empty():
            controller: ActorHandle = self._controllers.get()
            with contextlib.suppress(RayError):  # aborting ends the controller: its answer never comes
                ray.get(controller.abort.remote(), timeout=ABORT_TIMEOUT_S)
        free_workers(Path(self.config["directory"]))
        for channel in (self._reports, self._controllers):
            channel.shutdown(force=True)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the training keeps its own state in the trial's folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `save_checkpoint`."""

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:  # handed to the thread that Tune listens to
            self._ended.put(error)
        else:
            self._ended.put(None)


class _QueueReport:
    """Reports an epoch to the coordinating trial; waits while the one before was not yet taken."""

    def __init__(self, reports: Queue):
        self._reports = reports

    def __call__(self, metrics: dict[str, float], checkpoint: Path) -> None:
        self._reports.put(metrics)


class _TellOfWorkers(ControllerCallback, WorkerGroupCallback):
    """Sends the Train controller's handle to who may have to abort it, and leaves a note of what it holds."""

    def __init__(self, controllers: Queue, directory: Path):
        self._controllers, self._directory = controllers, directory

    def after_controller_start(self, train_run_context: Any) -> None:
        self._controllers.put(ray.get_runtime_context().current_actor)

    def before_init_train_context(self, workers: Any) -> dict[str, list[Any]]:
        """Leaves the note before the workers connect: Ray forgets what it holds for those that fail to."""
        held: Any = ray.get(workers[0].execute_async(_own_placement_group))
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / HELD).write_text(held)
        return {}


def _own_placement_group() -> str:
    """In which placement group this process runs."""
    group = ray.util.get_current_placement_group()
    assert group is not None
    return group.id.hex()


def free_workers(directory: Path) -> None:
    """Frees what the workers of a distributed trial hold that ended with an error.

    A trial whose own actor was killed can free nothing any more, and what Ray's controllers hold outlives
    them: no other trial would ever be placed there.
    """
    note = directory / HELD
    with contextlib.suppress(FileNotFoundError):  # the trial's own clean-up may come first
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(note.read_text())))
        note.unlink()


def trainable(
    resources: ResourcesSettings,
    *,
    storage_path: str,
    cache: Path | None = None,
    distributed: bool | None = None,
    share_epochs: int | None = None,
) -> Any:
    """What Tune runs for each trial, with the resources that each needs.

    Args:
        storage_path: Where Ray Train may write, on every node.
        cache: Where teachers' embeddings are kept for all trials, on every node. None: each trial's process
            keeps its own.
        distributed: Whether a trial has workers of its own. None: when there are several.
        share_epochs: How often trials in place share their state with one another. None: never.
    """
    if not (distributed or resources.workers_per_trial > 1):
        function = ray.tune.with_parameters(
            run_in_place, num_threads=resources.num_threads, cache=cache, share_epochs=share_epochs
        )
        return ray.tune.with_resources(function, resources.per_worker())
    coordinated = ray.tune.with_parameters(
        DistributedTrial, resources=resources, storage_path=storage_path, cache=cache
    )
    return ray.tune.with_resources(coordinated, COORDINATOR)


def _loop_config(
    task: TrialTask, *, num_threads: int, num_workers: int, report: Report, cache: Path | None
) -> dict[str, Any]:
    worker_task = WorkerTask(
        config=task["config"],
        directory=Path(task["directory"]),
        continue_from=Path(task["continue_from"]) if task["continue_from"] else None,
        num_threads=num_threads,
        num_workers=num_workers,
        report=report,
        cache=cache,
        accumulation=task["accumulation"],
        timeout_s=task["timeout_s"],
    )
    return {"task": worker_task}


def _first_cause(error: BaseException) -> BaseException:
    """What brought a training down, out of the wrappings in which Ray Train brings it.

    Workers fail for want of one that is lost. So its loss comes first, and is what is told where nothing but
    what followed from it was seen.
    """
    if isinstance(error, ray.train.WorkerGroupError):
        failures = list(error.worker_failures.values())
        error = next((f for f in failures if isinstance(f, WorkerHealthCheckFailedError)), failures[0])
    if isinstance(error, WorkerHealthCheckFailedError):
        error = error.health_check_failure
    if isinstance(error, UserExceptionWithTraceback):
        error = error._base_exc
    error = getattr(error, "cause", None) or error
    if isinstance(error, RayActorError) or any(words in str(error) for words in PEER_LOST):
        return LostWorkerError(f"a training worker is lost: {str(error).strip().splitlines()[-1]}")
    return error
