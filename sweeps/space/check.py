"""Checks the parts of a search space against each other and against what a trial can be."""

import math
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any

from pydantic import ValidationError

from distill.config import TrialConfig
from distill.errors import InputError
from sweeps.space.metrics import changes_in_training, gate_metrics, reported_metrics
from sweeps.space.model import SearchSpace, trial_config
from sweeps.space.names import claim_against
from sweeps.space.parameters import CategoricalParameter
from sweeps.space.problems import REFUSED, KeyPath, Problem, dotted, nearest, problems_of, shown

MAX_GRID_POINTS = 100_000
_SELECTION = "selection"


def check(space: SearchSpace, *, unread: frozenset[str] = frozenset()) -> list[Problem]:
    """Everything that is wrong with a space whose parts are each right in themselves.

    Args:
        unread: Parameters that the file has but that could not be read; conditions may name them.
    """
    problems = [*_check_base(space), *_check_search(space)]
    sound: dict[str, Any] = {}
    for name, parameter in space.parameters.items():
        found = list(_check_conditions(space, name, unread=unread))
        if not found and not _may_depend_on(unread, name, parameter.when):
            found = list(_check_parameter(space, name))
            if not found:
                sound[name] = parameter
        problems += found
    trials = _Trials(space.model_copy(update={"parameters": sound}))
    problems += trials.problems()
    return [*problems, *_check_metrics(space, trials)]


def _check_base(space: SearchSpace) -> Iterator[Problem]:
    if _SELECTION in space.base:
        claim = "must not be set: the first objective picks each trial's best epoch"
        yield Problem(("base", _SELECTION), claim)


def _check_search(space: SearchSpace) -> Iterator[Problem]:
    sampler, path = space.search.sampler, ("search", "sampler")
    conditional = [
        name for name, parameter in space.parameters.items() if set(parameter.when) & set(space.parameters)
    ]
    if sampler in ("gp", "qmc") and conditional:
        claim = f"must be one for conditions, such as tpe, since {conditional[0]} has one, got {sampler}"
        yield Problem(path, claim)
    if sampler != "grid":
        return
    endless = [name for name, parameter in space.parameters.items() if parameter.grid() is None]
    for name in endless:
        yield Problem(("parameters", name), "needs a step, since the sampler is grid")
    if endless:
        return
    most_points = math.prod(len(parameter.grid() or ()) for parameter in space.parameters.values())
    if most_points > MAX_GRID_POINTS:
        yield Problem(path, f"must not be grid for {most_points:,} points, more than {MAX_GRID_POINTS:,}")
        return
    num_points = len(space.grid() or ())
    if space.search.num_trials > num_points:
        claim = f"must be at most {num_points}, the points of the grid, got {space.search.num_trials}"
        yield Problem(("search", "num_trials"), claim)


def _check_parameter(space: SearchSpace, name: str) -> Iterator[Problem]:
    path = ("parameters", name)
    if name.partition(".")[0] == _SELECTION:
        yield Problem(path, "must not be searched: the first objective picks each trial's best epoch")
    elif (fixed := space.fixed(name)) is not None:
        yield Problem(path, f"is fixed in base as well, to {shown(fixed)}: remove it from one of them")
    elif next(_routes(space, name), None) is None:
        yield Problem(path, "exists in no trial, since its conditions never hold together")
    elif claim := claim_against(name, TrialConfig, lambda chooser: _possible(space, name, chooser)):
        yield Problem(path, claim)


def _may_depend_on(unread: frozenset[str], name: str, when: Collection[str]) -> bool:
    """Whether what a parameter is to be may be up to parameters that could not be read."""
    groups = {other.rpartition(".")[0] for other in unread}
    return name.rpartition(".")[0] in groups or bool(unread.intersection(when))


def _check_conditions(space: SearchSpace, name: str, *, unread: frozenset[str]) -> Iterator[Problem]:
    names = list(space.parameters)
    earlier = names[: names.index(name)]
    for other, allowed in space.parameters[name].when.items():
        path = ("parameters", name, "when", other)
        parameter = space.parameters.get(other)
        if parameter is None:
            if other not in unread and space.fixed(other) is None:
                yield Problem(path, f"is neither a parameter nor fixed in base; {nearest(other, earlier)}")
        elif other not in earlier:
            yield Problem(path, f"must be declared before {name}")
        elif not isinstance(parameter, CategoricalParameter):
            yield Problem(path, f"must be categorical, is {parameter.type}")
        else:
            for value in (value for value in allowed if value not in parameter.choices):
                choices = ", ".join(map(str, parameter.choices))
                yield Problem(path, f"must be among the choices of {other} ({choices}), got {shown(value)}")


def _check_metrics(space: SearchSpace, trials: "_Trials") -> Iterator[Problem]:
    reported = trials.reported
    metrics = [objective.metric for objective in space.objectives]
    for index, metric in enumerate(metrics):
        path = ("objectives", index, "metric")
        yield from _check_metric(path, metric, reported, space)
        if metric in metrics[:index]:
            yield Problem(path, f"is an objective already, got {metric!r} twice")
    if metrics[0] in reported and not changes_in_training(metrics[0]):
        claim = f"must change in training, since it picks each trial's best epoch, got {metrics[0]!r}"
        yield Problem(("objectives", 0, "metric"), claim)
    for index, constraint in enumerate(space.constraints):
        yield from _check_metric(("constraints", index, "metric"), constraint.metric, reported, space)
    for index, gate in enumerate(space.promotion.gates if space.promotion else ()):
        yield from _check_metric(("promotion", "gates", index, "metric"), gate.metric, trials.gates, space)


def _check_metric(path: KeyPath, metric: str, known: list[str], space: SearchSpace) -> Iterator[Problem]:
    ranks = path[0] != "promotion"
    if ranks and metric.startswith("benchmark/") and space.selection != "benchmark":
        yield Problem(path, f"must not be of the benchmark, which is for what was selected, got {metric!r}")
    elif known and metric not in known:
        yield Problem(path, f"must be a metric that is reported, got {metric!r}; {nearest(metric, known)}")


def _possible(space: SearchSpace, name: str, chooser: str) -> tuple[Any, ...] | None:
    """The values that `chooser` may have where the parameter `name` exists; None when nothing says."""
    if (fixed := space.fixed(chooser)) is not None:
        return (fixed,)
    if not isinstance(parameter := space.parameters.get(chooser), CategoricalParameter):
        return None
    routes = list(_routes(space, name))
    return tuple(
        value for value in parameter.choices if any(route.get(chooser, value) == value for route in routes)
    )


def _routes(space: SearchSpace, name: str) -> Iterator[dict[str, Any]]:
    """Every choice of other parameters' values under which a parameter exists, and no more than it needs."""
    when = space.parameters[name].when
    searched = {other: allowed for other, allowed in when.items() if other in space.parameters}
    if any(space.fixed(other) not in allowed for other, allowed in when.items() if other not in searched):
        return
    for values in product(*searched.values()):
        own = dict(zip(searched, values, strict=True))
        for deeper in product(*(list(_routes(space, other)) for other in searched)):
            steps = [own, *deeper]
            route = {key: value for step in steps for key, value in step.items()}
            if all(route[key] == value for step in steps for key, value in step.items()):
                yield route


class _Trials:
    """The trials at the ends of a space's parameters, each made twice: among all low and all high others.

    Where two parameters do not get on at some of their ends, one of these trials shows it.

    Attributes:
        reported: The metrics that all of them report.
        gates: The metrics that are known of each of them when it is to be promoted.
    """

    def __init__(self, space: SearchSpace):
        self.reported: list[str] = []
        self.gates: list[str] = []
        self._space = space
        self._seen: set[Problem] = set()

    def problems(self) -> Iterator[Problem]:
        """What `TrialConfig` has against base, then against each end of each parameter."""
        for edge in (0, -1):
            point = self._point({}, edge)
            for problem in self._new_refusals(point):
                name = self._to_blame(problem, point, edge)
                yield self._placed(problem) if name is None else _blamed(problem, name, point[name])
        for name, parameter in self._space.parameters.items():
            for route, value, edge in product(_routes(self._space, name), parameter.ends(), (0, -1)):
                for problem in self._new_refusals(self._point({**route, name: value}, edge)):
                    yield _blamed(problem, name, value)
        self.gates = self.gates or self._gates_of_base()

    def _point(self, pinned: Mapping[str, Any], edge: int) -> dict[str, Any]:
        """The pinned values, and the first or last of every other parameter that exists beside them."""
        return self._space.point(lambda name, parameter: pinned.get(name, parameter.ends()[edge]))

    def _gates_of_base(self) -> list[str]:
        """What the faces of base alone say, for where no trial can be made; nothing if they are wrong too."""
        try:
            faces = {key: value for key, value in self._space.base.items() if key == "faces"}
            return gate_metrics(trial_config(faces).faces)
        except (ValidationError, InputError):
            return []

    def _to_blame(self, problem: Problem, point: Mapping[str, Any], edge: int) -> str | None:
        """The parameter it is about, or the first with an end at which it is gone; None: base is at fault."""
        if dotted(problem.path) in point:
            return dotted(problem.path)
        for name, value in point.items():
            others = (end for end in self._space.parameters[name].ends() if end != value)
            if any(problem not in self._refusals(self._point({name: end}, edge))[0] for end in others):
                return name
        return None

    def _new_refusals(self, values: Mapping[str, Any]) -> list[Problem]:
        """What is wrong with the trial at a point and was not with those before it."""
        problems, config = self._refusals(values)
        if config is not None:
            self.reported = _common(self.reported, reported_metrics(config))
            self.gates = _common(self.gates, gate_metrics(config.faces))
        fresh = [p for p in problems if p not in self._seen and p.path[:1] != (_SELECTION,)]
        self._seen.update(fresh)
        return fresh

    def _refusals(self, values: Mapping[str, Any]) -> tuple[list[Problem], TrialConfig | None]:
        """What is wrong with the trial at a point, and the trial where it can be made."""
        settings = self._space.trial_settings(values)
        try:
            config = trial_config(settings)
        except ValidationError as error:
            return problems_of(error, settings, TrialConfig), None
        problems = list(_refusals_of_the_sweep(self._space, config))
        try:
            for pairs in ("validation", "benchmark"):
                config.faces.pair_facts(pairs)
        except InputError as error:
            return [*problems, Problem(("faces",), f"{REFUSED}{error}")], None
        return problems, config

    def _placed(self, problem: Problem) -> Problem:
        """Finds which key of the file a refused setting stems from."""
        name = dotted(problem.path)
        if name in self._space.parameters:
            return Problem(("parameters", name), problem.claim)
        return Problem(("base", *problem.path), problem.claim)


def _common(metrics: list[str], others: list[str]) -> list[str]:
    """Those of `metrics` that are among `others` too; all others where there are none yet."""
    return [metric for metric in metrics or others if metric in others]


def _blamed(problem: Problem, name: str, value: Any) -> Problem:
    """A problem of a trial as one of the parameter whose value brings it about."""
    own = dotted(problem.path) == name
    refused = problem.claim.startswith(REFUSED)
    reason = problem.claim.removeprefix(REFUSED) if refused else problem.sentence
    claim = problem.claim if own else f"must not be {shown(value)}: {reason}"
    return Problem(("parameters", name), claim)


def _refusals_of_the_sweep(space: SearchSpace, config: TrialConfig) -> Iterator[Problem]:
    """What the sweep's own settings have against a trial."""
    workers, batch_size = space.resources.workers_per_trial, config.training.batch_size
    if batch_size % workers:
        claim = f"must be a multiple of resources.workers_per_trial ({workers}), got {batch_size}"
        yield Problem(("training", "batch_size"), claim)
    grace, epochs = space.first_rung, config.training.epochs
    if space.scheduler.name == "asha" and epochs <= grace:
        claim = f"must be above scheduler.grace_epochs ({grace}) for asha to stop anything, got {epochs}"
        yield Problem(("training", "epochs"), claim)
