"""A trial over several Ray Train workers, which hold one student and share every batch.

As Ray has it, a trial of two workers in Tune is seven processes, all started for it: Tune's actor, the
controller of the workers, one that frees what a dead controller holds, a queue, one where the workers meet,
and the workers. Here Tune's actor controls the workers itself, and goes on to the next trial when one is
over: three are left to start.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
import ray.tune
from ray._raylet import PlacementGroupID
from ray.exceptions import RayActorError, WorkerCrashedError
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.tune.result import RESULT_DUPLICATE
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.queue import Empty, Queue

from distill.training import Report
from sweeps.depot import Depot
from sweeps.space import ResourcesSettings
from sweeps.task import TrialTask, loop_config, train_on_copies
from sweeps.worker_setup import WorkerSetup

PEER_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What a worker says in whose collective another has died."""

POLL_S = 0.5
ABORT_TIMEOUT_S = 15

HELD = b"workers of "
"""What Ray's own notes call the placement group of a trial's workers, before the trial's directory."""


class LostWorkerError(WorkerCrashedError):
    """A worker of a distributed trial is gone.

    No actor's error, which Ray has for it: Tune would take it for the trial's own actor's.
    """

    def __str__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] - Ray's says nothing
        return str(self.args[0])


class DistributedTrial(ray.tune.Trainable):
    """A Tune trainable that coordinates Ray Train workers, and leaves nothing behind when it is stopped."""

    def setup(self, config: dict[str, Any], **parameters: Any) -> None:
        """Begins the first trial.

        Args:
            config: A `TrialTask`.
            parameters: `resources`, the space's, `storage_path`, where Ray Train may write, `cache`, where
                teachers' embeddings are kept, and `depot`, which hands on what a trial leaves.
        """
        self._parameters = parameters
        self._reports = Queue(maxsize=1, actor_options={"num_cpus": 0})
        self._begin(cast(TrialTask, config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins the next trial; aborts the one before if it still runs."""
        self._training.abort()
        self._begin(cast(TrialTask, new_config))
        return True

    def step(self) -> dict[str, Any]:
        """The next epoch's report; once the training has returned, the last one again, marked as such."""
        while True:
            with contextlib.suppress(Empty):
                number, metrics = self._reports.get(timeout=POLL_S)
                # What an aborted trial had on its way is not this one's.
                if number == self._number:
                    self._last = metrics
                    return dict(metrics)
            if self._training.has_returned() and self._reports.empty():
                return {**self._last, "done": True, RESULT_DUPLICATE: True}

    def cleanup(self) -> None:
        """Aborts the training if it still runs."""
        self._training.abort()
        self._reports.shutdown(force=True)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the training keeps its own state in the trial's folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `save_checkpoint`."""

    def _begin(self, task: TrialTask) -> None:
        self._number = task["number"]
        self._last: dict[str, Any] = {}
        self._training = _Training(
            task,
            name=f"{task['number']:04d}-{self.trial_id}",
            report=_QueueReport(self._reports, task["number"]),
            **self._parameters,
        )


class _QueueReport:
    """Reports an epoch to the coordinating trial; waits while the one before was not yet taken."""

    def __init__(self, reports: Queue, number: int):
        self._reports, self._number = reports, number

    def __call__(self, metrics: dict[str, float], checkpoint: Path) -> None:
        self._reports.put((self._number, metrics))


class _Training:
    """One trial's training by workers, controlled by a thread of this process."""

    def __init__(
        self,
        task: TrialTask,
        *,
        name: str,
        report: Report,
        resources: ResourcesSettings,
        storage_path: str,
        cache: Path | None,
        depot: Depot | None,
    ):
        self._directory = Path(task["directory"])
        self._trainer = _Trainer(
            train_on_copies,
            train_loop_config=loop_config(
                task,
                num_threads=resources.num_threads,
                num_workers=resources.workers_per_trial,
                report=report,
                cache=cache,
                depot=depot,
            ),
            torch_config=WorkerSetup(),
            scaling_config=ray.train.ScalingConfig(
                num_workers=resources.workers_per_trial,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=resources.per_worker(),
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=storage_path,
                failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=2),
                # Ray takes its internal callbacks too, though it promises the user's alone.
                callbacks=cast(Any, [_NoteOfWorkers(self._directory)]),
            ),
        )
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()

    def has_returned(self) -> bool:
        """Whether the training is over.

        Raises:
            Exception: What brought it down.
        """
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise _first_cause(self._error)
        return True

    def abort(self) -> None:
        """Ends the workers if they still train, and frees what they hold."""
        self._trainer.abort()
        self._thread.join(ABORT_TIMEOUT_S)
        free_workers(self._directory)

    def _fit(self) -> None:
        self._error: BaseException | None = None
        try:
            self._trainer.fit()
        except BaseException as error:  # told to the thread that Tune listens to
            self._error = error


class _Trainer(TorchTrainer):
    """Ray Train, its controller in the calling thread instead of an actor of its own."""

    def __init__(self, train_loop: Callable[[dict[str, Any]], None], **settings: Any):
        super().__init__(train_loop, **settings)
        self._loop = asyncio.new_event_loop()

    def abort(self) -> None:
        """Ends the training, from another thread; the workers are gone once `fit` has returned."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the training is over
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _create_default_callbacks(self) -> list[Any]:
        """Ray's, without the one that starts an actor to outlive the controller: see `free_workers`."""
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]

    def _initialize_and_run_controller(self, **parts: Any) -> ray.train.Result:
        controller = TrainController(**parts)
        try:
            self._loop.run_until_complete(controller.run())
        finally:
            if (workers := controller.get_worker_group()) is not None:  # it was aborted
                workers.abort()
            self._loop.close()
        return controller.get_result()


class _NoteOfWorkers(WorkerGroupCallback):
    """Leaves a note of what the workers hold."""

    def __init__(self, directory: Path):
        self._directory = directory

    def before_init_train_context(self, workers: Any) -> dict[str, list[Any]]:
        """Leaves it before the workers connect: Ray forgets what it holds for those that fail to."""
        held: Any = ray.get(workers[0].execute_async(_own_placement_group))
        _internal_kv_put(HELD + bytes(self._directory), held.encode())
        return {}


def _own_placement_group() -> str:
    """In which placement group this process runs."""
    group = ray.util.get_current_placement_group()
    assert group is not None
    return group.id.hex()


def free_workers(directory: Path) -> None:
    """Frees what the workers of a distributed trial hold that ended with an error.

    A trial whose own actor was killed can free nothing any more, and what it holds outlives it: no other
    trial would ever be placed there.
    """
    note = HELD + bytes(directory)
    if (held := _internal_kv_get(note)) is not None:
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(held.decode())))
        _internal_kv_del(note)


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
