"""What was searched and what won, in a paragraph."""

from dataclasses import dataclass

from distill.errors import DivergenceError, InputError
from distill.evaluation import ten_fold
from sweeps.columns import duration, short_names
from sweeps.leaderboard import TrialRow
from sweeps.pages.content import MissingError
from sweeps.pages.cost import busy_seconds, spans_of
from sweeps.pages.knowledge import Knowledge
from sweeps.pages.quantities import counted, listed, quantity

PARAMETERS = "efficiency/parameters"
EMBEDDED_WORLD = (
    "Faces here are those of the embedded world: they are drawn and show no person. What is found on them "
    "shows that the system works and claims nothing about real faces."
)


@dataclass(frozen=True)
class Fact:
    """A number at the head of the page, and what it is."""

    value: str
    name: str
    beside: str = ""


def summary(known: Knowledge) -> list[str]:
    """The paragraph, sentence by sentence."""
    return [_searched(known), *_won(known), *_cautions(known)]


def facts(known: Knowledge) -> list[Fact]:
    """The few numbers that matter most."""
    found = []
    if (best := known.best) is not None:
        for objective in known.space.objectives:
            shown = quantity(objective.metric)
            teacher = known.teacher.get(objective.metric)
            beside = f"teacher {shown.text(teacher)}" if teacher is not None else ""
            found.append(Fact(shown.text(best.metrics[objective.metric]), shown.name, beside))
        if PARAMETERS in best.metrics and PARAMETERS not in {o.metric for o in known.space.objectives}:
            teacher = known.teacher.get(PARAMETERS)
            beside = f"teacher {quantity(PARAMETERS).text(teacher)}" if teacher is not None else ""
            found.append(Fact(quantity(PARAMETERS).text(best.metrics[PARAMETERS]), "parameters", beside))
    ended = sum(row.state not in ("running", "interrupted") for row in known.rows)
    found.append(Fact(f"{ended} of {known.space.search.num_trials}", "trials", known.states()))
    if spans := spans_of(known):
        found.append(Fact(duration(busy_seconds(list(spans.values()))), "time in which trials ran"))
    return found


def _searched(known: Knowledge) -> str:
    space = known.space
    config = space.config(space.first_point())
    heads = list(short_names(list(space.parameters)).values())
    what = f"{counted(len(heads), 'parameter')} ({listed(heads)})" if heads else "a single point"
    students = space.parameters.get("student.name")
    names = [str(choice) for choice in students.ends()] if students else [config.student.name]
    method = space.parameters.get("method.name")
    methods = [str(choice) for choice in method.ends()] if method else [config.method.model_dump()["name"]]
    scheduler = (
        "" if space.scheduler.name == "none" else f", of which {space.scheduler.name} stops the hopeless"
    )
    goals = listed(
        [
            f"{'raise' if objective.direction == 'maximize' else 'lower'} {quantity(objective.metric).name}"
            for objective in space.objectives
        ]
    )
    return (
        f"This sweep searches {what} of {listed(methods)}, which distils a teacher ({config.teacher.name}) "
        f"into {listed(names)}, to {goals}: {counted(space.search.num_trials, 'trial')} drawn by "
        f"{space.search.sampler}{scheduler}."
    )


def _won(known: Knowledge) -> list[str]:
    best = known.best
    if best is None:
        return [f"No trial has completed: {known.states()}." if known.rows else "No trial has begun."]
    shared = known.space.config(known.space.first_point()).student.name
    student = str(best.params.get("student.name", shared))
    searched = {objective.metric for objective in known.space.objectives}
    achieved = listed(
        [_beside_teacher(known, best, objective.metric) for objective in known.space.objectives]
    )
    verb = "leads" if known.state != "finished" or len(known.space.objectives) > 1 else "won"
    size = ""
    if PARAMETERS in best.metrics and PARAMETERS not in searched:
        size = f" of {quantity(PARAMETERS).text(best.metrics[PARAMETERS])} parameters"
        if PARAMETERS in known.teacher:
            size += f" (the teacher has {quantity(PARAMETERS).text(known.teacher[PARAMETERS])})"
    sentences = [f"Trial {best.number}, {_article(student)} {student}{size}, {verb} with {achieved}."]
    if known.is_repeated and (stands := best.standing) is not None and stands.spread is not None:
        seeds = f"{stands.num_seeds} {'confirming ' if stands.is_confirmed else ''}seeds"
        means = [
            f"{quantity(objective.metric).text(at)} ± {quantity(objective.metric).text(spread)}"
            for objective, at, spread in zip(known.space.objectives, stands.mean, stands.spread, strict=True)
        ]
        sentences.append(f"Its point comes to {listed(means)} over {seeds} (mean and standard deviation).")
    if known.is_promoted:
        try:
            measured = known.measured
        except (MissingError, InputError, DivergenceError):
            return sentences  # the section on the benchmark says why
        champion, teacher = (
            ten_fold(2 * (1 - similarity_P), measured.pairs.is_genuine_P).accuracy
            for similarity_P in measured.networks.values()
        )
        sentences.append(
            f"It was promoted, and on {measured.description} that no trial has seen it judges "
            f"{100 * champion:.2f} % rightly, the teacher {100 * teacher:.2f} %."
        )
    return sentences


def _beside_teacher(known: Knowledge, best: TrialRow, metric: str) -> str:
    shown = quantity(metric)
    own = f"{shown.name} {shown.text(best.metrics[metric])}"
    if metric not in known.teacher:
        return own
    return f"{own} (the teacher's: {shown.text(known.teacher[metric])})"


def _cautions(known: Knowledge) -> list[str]:
    said = []
    if known.state == "running":
        said.append(
            f"The sweep is still running: this page shows how it stood on {known.made:%d %B %Y at %H:%M}."
        )
    if known.state == "stopped":
        said.append(f"The sweep was stopped before its end; sweeps resume {known.name} goes on with it.")
    if failed := known.count("failed"):
        said.append(f"{counted(failed, 'trial')} failed: the table of costs says why.")
    if known.ranks_on_benchmark:
        said.append(
            "Trials were ranked on the benchmark: what it says of the best of them is too good, no result."
        )
    if known.space.config(known.space.first_point()).faces.name == "embedded":
        said.append(EMBEDDED_WORLD)
    return said


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in "aeio" else "a"
