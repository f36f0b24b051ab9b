"""What running a search space would take: trials, where they run, hours, disk."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sweeps import cluster  # before anything that imports ray: it sets what Ray reads when it is imported

# isort: split
import torch

from distill.config import TrialConfig
from distill.errors import InputError
from distill.evaluation import static_efficiency_of
from distill.methods import LabelledSettings
from sweeps.caching import cache_folder, distinct_sets
from sweeps.checks import size
from sweeps.estimate import Measurement, measure
from sweeps.home import Home
from sweeps.placement import Node, Placement, place
from sweeps.preflight import require
from sweeps.space import CategoricalParameter, SearchSpace
from sweeps.space.parameters import AnyParameter

STATES = 3
"""Of a trial that runs: its last state, the one before, and the one that is being written."""
RECORD_BYTES, EPOCH_BYTES = 150_000, 20_000
"""Of a training in the databases and in Tune's folder, and of each of its epochs, measured."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """From the least to the most that may come."""

    least: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes under the home, at most.

    Attributes:
        states: Of trials that run at once; of all trials of a population.
        students: That are kept, here and for MLflow.
        records: In databases and logs.
        cache: Teachers' embeddings that trials are known to need; None where that cannot be told.
    """

    states: int
    students: int
    records: int
    cache: int | None

    @property
    def total(self) -> int:
        """Of all that is known."""
        return self.states + self.students + self.records + (self.cache or 0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep would take.

    Attributes:
        epochs: Of all trainings.
        measured: What steps take here, or why that is not known.
        hours: Until its end; None where steps were not measured.
        gpu_hours: That GPUs are held; None where steps were not measured.
    """

    study: str
    points: int
    trainings: int
    placement: Placement
    num_nodes: int
    epochs: Range
    faces: Range
    measured: Measurement | str
    hours: Range | None
    gpu_hours: Range | None
    disk: Disk
    parameters: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """In plain types."""
        plain = asdict(self)
        return plain | {"disk": {**plain["disk"], "total": self.disk.total}}

    def __str__(self) -> str:
        return "\n".join(f"{name:<12} {value}" for name, value in self._lines())

    def _lines(self) -> Iterator[tuple[str, str]]:
        nodes = "1 node" if self.num_nodes == 1 else f"{self.num_nodes} nodes"
        yield "study", self.study
        yield "trials", f"{self.points:,}"
        if self.trainings != self.points:
            yield "trainings", f"{self.trainings:,} at most: points that complete are trained again"
        yield "at once", f"{self.placement.trials} on {nodes}: {self.placement}"
        yield "epochs", _between(self.epochs, "{:,.0f}")
        yield "faces", _between(self.faces, "{:,.0f}")
        if self.hours is None or self.gpu_hours is None:
            yield "hours", f"not estimated: {self.measured}"
        else:
            yield "hours", f"{_between(self.hours, '{:.2g}')}, if a cluster's CPUs are like this one's"
            yield "", f"{self.measured}; the first point's"
            if self.gpu_hours.most:
                yield "GPU-hours", _between(self.gpu_hours, "{:.2g}")
        yield "disk", f"{size(self.disk.total)} at most"
        yield "", f"{size(self.disk.states)} states of trials that run"
        yield "", f"{size(self.disk.students)} students that are kept"
        yield "", f"{size(self.disk.records)} records"
        if self.disk.cache is None:
            yield "", "and the teacher's embeddings, whose sets differ from trial to trial"
        elif self.disk.cache:
            yield "", f"{size(self.disk.cache)} embeddings of the teacher's"
        yield "parameters", ", ".join(self.parameters) or "none"


def plan(space: SearchSpace, address: str | None, home: Home | None = None) -> Plan:
    """What a sweep of this space would take on a cluster, or on this machine.

    Raises:
        RefusedError: If no cluster answers at `address`, or not one trial can be placed there.
    """
    if address is None:
        nodes = cluster.own_nodes()
    else:
        with cluster.connected(address):
            nodes = cluster.nodes()
    return plan_on(space, nodes, home or Home.at())


def plan_on(space: SearchSpace, nodes: Sequence[Node], home: Home) -> Plan:
    """`plan` on these nodes.

    Raises:
        RefusedError: If not one trial can be placed there.
    """
    require(cluster.check_resources(space.resources, nodes))
    placement = place(space.resources, nodes)
    config = space.config(space.first_point())
    epochs = epochs_of(space)
    measured = _measure(space, config)
    hours = gpu_hours = None
    if isinstance(measured, Measurement):
        per_epoch_s = config.training.steps_per_epoch * measured.step_s + measured.evaluation_s
        hours, gpu_hours = _hours(space, epochs, per_epoch_s=per_epoch_s, at_once=placement.trials)
    faces = config.training.faces_per_epoch
    return Plan(
        study=space.name,
        points=space.search.num_trials,
        trainings=space.trainings,
        placement=placement,
        num_nodes=len(nodes),
        epochs=epochs,
        faces=Range(least=epochs.least * faces, most=epochs.most * faces),
        measured=measured,
        hours=hours,
        gpu_hours=gpu_hours,
        disk=disk_of(space, at_once=placement.trials, home=home),
        parameters=list(space.parameters),
    )


def epochs_of(space: SearchSpace) -> Range:
    """Epochs of all trainings. The most: none is stopped early.

    The least: of those that reach a rung of asha, one in `reduction_factor` goes on, so that most end at the
    first; the brackets of hyperband do so from later rungs on; median stops one in two at its first chance.
    Points that do not complete are not trained again.
    """
    longest, first, factor = space.max_epochs, space.first_rung, space.scheduler.reduction_factor
    match space.scheduler.name:
        case "asha":
            stages = [_halving(first, longest, factor)]
        case "hyperband":
            stages = [_halving(first * factor**s, longest, factor) for s in range(space.scheduler.brackets)]
        case "median":
            stages = [((first + longest) / 2, 0.5)]
        case _:
            stages = [(float(longest), 1.0)]
    expected, completing = np.mean(stages, axis=0).tolist()
    points, confirming = (
        space.search.num_trials,
        space.trainings - space.search.num_trials * space.search.repeats,
    )
    again = points * completing * (space.search.repeats - 1) + confirming
    return Range(least=points * expected + again * longest, most=float(space.trainings * longest))


def disk_of(space: SearchSpace, *, at_once: int, home: Home) -> Disk:
    """What a sweep writes under the home, at most, with so many trials at once."""
    corners = list(_corners(space))
    student, state = max(map(_student_bytes, corners)), max(map(_state_bytes, corners))
    # Members of a population go on from the states of those that ended.
    states = at_once * STATES + (space.trainings if space.scheduler.name == "pbt" else 0)
    kept = min(space.keep.students, space.trainings)
    copies = 1 if home.has_tracking_server else 2
    return Disk(
        states=states * state,
        students=(at_once + kept * copies) * student,
        records=space.trainings * (RECORD_BYTES + space.max_epochs * EPOCH_BYTES),
        cache=_missing_cache(space, home),
    )


def _measure(space: SearchSpace, config: TrialConfig) -> Measurement | str:
    resources = space.resources
    if resources.gpus_per_worker and not torch.cuda.is_available():
        return "trials train on GPUs, and this machine has none"
    return measure(config, num_threads=resources.num_threads, num_workers=resources.workers_per_trial)


def _hours(space: SearchSpace, epochs: Range, *, per_epoch_s: float, at_once: int) -> tuple[Range, Range]:
    """Hours and GPU-hours, within what the budget allows."""
    least, most = (count * per_epoch_s / 3600 for count in (epochs.least, epochs.most))
    gpus = space.resources.workers_per_trial * space.resources.gpus_per_worker
    # The last of trials of equal length run with fewer beside them.
    rounds = -(-space.trainings // at_once) * at_once / space.trainings
    until_end = _within(Range(least=least / at_once, most=most * rounds / at_once), space.budget.hours)
    return until_end, _within(Range(least=least * gpus, most=most * gpus), space.budget.gpu_hours)


def _within(range_: Range, limit: float | None) -> Range:
    if limit is None:
        return range_
    return Range(least=min(range_.least, limit), most=min(range_.most, limit))


def _halving(first: float, longest: float, factor: int) -> tuple[float, float]:
    """Expected epochs of a trial, and the share of trials that complete."""
    rung, share = min(first, longest), 1.0
    expected = rung
    while rung < longest:
        following = min(rung * factor, longest)
        share /= factor
        expected += share * (following - rung)
        rung = following
    return expected, share


def _corners(space: SearchSpace) -> Iterator[TrialConfig]:
    """Trials among which the largest student is likely: the first point, and high ends with every choice."""
    yield space.config(space.first_point())
    choices = [len(p.choices) for p in space.parameters.values() if isinstance(p, CategoricalParameter)]
    for turn in range(max(choices, default=1)):
        with contextlib.suppress(InputError):  # what is refused together is not trained either
            yield space.config(space.point(lambda _, parameter, turn=turn: _end(parameter, turn)))


def _end(parameter: AnyParameter, turn: int) -> Any:
    """The high end of a number; of choices one after the other."""
    ends = parameter.ends()
    return ends[min(turn, len(ends) - 1)] if isinstance(parameter, CategoricalParameter) else ends[-1]


def _student_bytes(config: TrialConfig) -> int:
    efficiency = static_efficiency_of(
        config.student, embedding_dim=config.student_dim(), size_px=config.faces.size_px
    )
    return int(efficiency["efficiency/weight_bytes"])


def _state_bytes(config: TrialConfig) -> int:
    """Weights and what the optimiser keeps of each: adam two moments, sgd one."""
    weights = _student_bytes(config)
    if config.margin_in_use() is not None and isinstance(config.method, LabelledSettings):
        weights += 4 * config.method.num_classes * config.student_dim()
    return weights * (3 if config.optimizer.name == "adam" else 2)


def _missing_cache(space: SearchSpace, home: Home) -> int | None:
    """Bytes of the embedding caches that trials will need, less what caches take already."""
    first = space.config(space.first_point())
    if not isinstance(first.method, LabelledSettings):
        return 0
    if not (sets := distinct_sets(space)) and not first.method.augmentation.reaches_teacher:
        return None
    needed = 0
    for config in sets:
        assert isinstance(config.method, LabelledSettings)
        if config.faces.draws:
            num_images = config.method.num_classes * config.method.images_per_class
        else:
            num_images = len(config.method.draw(config.faces))
        itemsize = np.dtype(config.method.cache_dtype).itemsize
        needed += 2 * num_images * config.teacher.embedding_dim * itemsize
    there = sum(path.stat().st_size for path in cache_folder(home).rglob("*") if path.is_file())
    return max(0, needed - there)


def _between(range_: Range, form: str) -> str:
    least, most = form.format(range_.least), form.format(range_.most)
    return most if least == most else f"{least} to {most}"
