"""Checks the parts of a search space against each other and against what a trial can be."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import ValidationError

from distill.config import TrialConfig
from distill.errors import InputError
from sweeps.space.check_search import check_search, refusals_of_the_sweep
from sweeps.space.metrics import changes_in_training, gate_metrics, reported_metrics
from sweeps.space.model import SearchSpace, trial_config
from sweeps.space.names import claim_against
from sweeps.space.parameters import CategoricalParameter, is_number
from sweeps.space.problems import REFUSED, KeyPath, Problem, dotted, nearest, problems_of, shown
from sweeps.space.promotion import promotion_problems

_SELECTION = "selection"
_ENQUEUE = ("search", "enqueue")


def check(
    space: SearchSpace, *, unread: frozenset[str] = frozenset(), unsure: frozenset[str] = frozenset()
) -> list[Problem]:
    """Everything that is wrong with a space whose parts are each right in themselves.

    Args:
        unread: Parameters that the file has but that could not be read; others may name them.
        unsure: Keys of the file below which something could not be read.
    """
    problems = [*_check_base(space), *check_search(space, unread=unread, unsure=unsure)]
    sound: dict[str, Any] = {}
    for name, parameter in space.parameters.items():
        found = [*_check_conditions(space, name, unread=unread), *_check_ratio(space, name, unread=unread)]
        others = {*parameter.when, *filter(None, [space.ratio_of(name)])}
        if not found and not _may_depend_on(unread, name, others):
            found = list(_check_parameter(space, name))
            if not found and all(other in sound or other not in space.parameters for other in others):
                sound[name] = parameter
        problems += found
    wrong = {problem.path[2] for problem in problems if problem.path[:2] == _ENQUEUE and problem.path[2:]}
    trials = _Trials(
        space.model_copy(update={"parameters": sound}),
        is_stopped_early="scheduler" not in unsure,
        first=[index for index in range(len(space.search.enqueue)) if index not in wrong],
    )
    problems += trials.problems()
    return [*problems, *_check_metrics(space, trials)]


def _check_base(space: SearchSpace) -> Iterator[Problem]:
    if _SELECTION in space.base:
        claim = "must not be set: the first objective picks each trial's best epoch"
        yield Problem(("base", _SELECTION), claim)


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


def _check_ratio(space: SearchSpace, name: str, *, unread: frozenset[str]) -> Iterator[Problem]:
    names, path = list(space.parameters), ("parameters", name, "ratio_of")
    earlier = names[: names.index(name)]
    if (other := space.ratio_of(name)) is None:
        return
    parameter, fixed = space.parameters.get(other), space.fixed(other)
    if parameter is None:
        if fixed is None and other not in unread:
            known = [*earlier, *_leaves(space.base)]
            claim = f"must be a parameter or fixed in base, got {other!r}; {nearest(other, known)}"
            yield Problem(path, claim)
        elif fixed is not None and not is_number(fixed):
            yield Problem(path, f"must name a number, got {other!r}, which is {shown(fixed)} in base")
    elif other not in earlier:
        yield Problem(path, f"must be declared before {name}, got {other!r}")
    elif not parameter.is_number:
        yield Problem(path, f"must name a number, got {other!r}, which has other choices")
    elif not all(_exists_under(space, other, route) for route in _routes(space, name)):
        conditions = ", ".join(f"{key}: [{', '.join(map(str, v))}]" for key, v in parameter.when.items())
        claim = f"must exist wherever {name} does, got {other!r}: add when: {{{conditions}}}"
        yield Problem(path, claim)


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of nested settings."""
    for key, value in settings.items():
        yield from _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else (f"{prefix}{key}",)


def _exists_under(space: SearchSpace, name: str, route: Mapping[str, Any]) -> bool:
    """Whether a parameter exists in every trial that has these values."""
    for other, allowed in space.parameters[name].when.items():
        parameter = space.parameters.get(other)
        if other in route or parameter is None:
            if route.get(other, space.fixed(other)) not in allowed:
                return False
        elif not (set(parameter.ends()) <= set(allowed) and _exists_under(space, other, route)):
            return False
    return True


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
    if space.promotion is not None:
        yield from promotion_problems(
            space.promotion, space.objectives, reported=reported, measured=trials.gates
        )


def _check_metric(path: KeyPath, metric: str, known: list[str], space: SearchSpace) -> Iterator[Problem]:
    if metric.startswith("benchmark/") and space.selection != "benchmark":
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

    Where two parameters do not get on at some of their ends, one of these trials shows it. Points that are to
    be tried first are made likewise.

    Args:
        is_stopped_early: Whether it is known which scheduler stops them.
        first: Which of the points to be tried first are sound in themselves.

    Attributes:
        reported: The metrics that all of them report.
        gates: The metrics that are known of each of them when it is to be promoted.
    """

    def __init__(self, space: SearchSpace, *, is_stopped_early: bool, first: Sequence[int]):
        self.reported: list[str] = []
        self.gates: list[str] = []
        self._space = space
        self._is_stopped_early = is_stopped_early
        self._first = first
        self._seen: set[Problem | KeyPath] = set()

    def problems(self) -> Iterator[Problem]:
        """What `TrialConfig` has against base, then against each end of each parameter."""
        for edge in (0, -1):
            point = self._point({}, edge)
            for problem in self._new_refusals(point):
                name = self._to_blame(problem, point, edge)
                yield self._placed(problem) if name is None else self._blamed(problem, name, point)
        for name, parameter in self._space.parameters.items():
            for route, value, edge in product(_routes(self._space, name), parameter.ends(), (0, -1)):
                point = self._point({**route, name: value}, edge)
                for problem in self._new_refusals(point):
                    yield self._blamed(problem, name, point)
        for index, edge in product(self._first, (0, -1)):
            for problem in self._new_refusals(self._point(self._space.search.enqueue[index], edge)):
                yield Problem((*_ENQUEUE, index), f"{REFUSED}{_reason(problem)}")
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
        if (own := dotted(problem.path)) in point or self._space.ratio_of(own):
            return own
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
        fresh = {self._once(p): p for p in problems if p.path[:1] != (_SELECTION,)}
        new = [problem for key, problem in fresh.items() if key not in self._seen]
        self._seen.update(fresh)
        return new

    def _once(self, problem: Problem) -> Problem | KeyPath:
        """What a problem is told once for: a product may be wrong with as many values as there are pairs."""
        return problem.path if self._space.ratio_of(dotted(problem.path)) else problem

    def _refusals(self, values: Mapping[str, Any]) -> tuple[list[Problem], TrialConfig | None]:
        """What is wrong with the trial at a point, and the trial where it can be made."""
        settings = self._space.trial_settings(values)
        try:
            config = trial_config(settings)
        except ValidationError as error:
            return problems_of(error, settings, TrialConfig), None
        problems = list(refusals_of_the_sweep(self._space, config, is_stopped_early=self._is_stopped_early))
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

    def _blamed(self, problem: Problem, name: str, point: Mapping[str, Any]) -> Problem:
        """A problem of a trial as one of the parameter whose value brings it about, or of its own ratio."""
        own = dotted(problem.path)
        if ratio_of := self._space.ratio_of(own):
            ratio = point.get(own, self._space.parameters[own].ends()[0])
            return Problem(("parameters", own), f"{problem.claim}, {shown(ratio)} times {ratio_of}")
        claim = problem.claim if own == name else f"must not be {shown(point[name])}: {_reason(problem)}"
        return Problem(("parameters", name), claim)


def _common(metrics: list[str], others: list[str]) -> list[str]:
    """Those of `metrics` that are among `others` too; all others where there are none yet."""
    return [metric for metric in metrics or others if metric in others]


def _reason(problem: Problem) -> str:
    """What a trial has against itself, in a sentence of its own."""
    return problem.claim.removeprefix(REFUSED) if problem.claim.startswith(REFUSED) else problem.sentence
