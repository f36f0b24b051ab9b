"""What each gate says of a candidate."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from distill.errors import InputError
from distill.evaluation import Resampled, resampled_metrics
from sweeps.promotion.measuring import PREFIX, Candidate, Measured, this_machine
from sweeps.space import Bound, ChampionGate, Gate, GroupGate, TeacherGate
from sweeps.space.document import parse_value
from sweeps.space.metrics import FACES_PER_SECOND
from sweeps.space.settings import number

RESAMPLES = 2000
"""Of the people whom candidate and champion both meet."""
_SHORT = re.compile(r"\s*(\S+)\s*(>=|<=)\s*(\S+)\s*")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one gate said of a candidate.

    Attributes:
        value: What was measured: the metric, its share of the teacher's, its lead over the champion's, or the
            lowest group's; None where there was nothing to compare with.
        note: What else is to be known of it.
    """

    gate: Gate
    value: float | None
    passed: bool
    note: str = ""

    def __str__(self) -> str:
        measured = "" if self.value is None else f" with {number(self.value)}"
        note = f" ({self.note})" if self.note else ""
        return f"gate {self.gate} {'passed' if self.passed else 'failed'}{measured}{note}"

    def document(self) -> dict[str, Any]:
        """As plain types, for `--json`."""
        return {
            "gate": str(self.gate),
            "metric": self.gate.metric,
            "value": self.value if self.value is None or math.isfinite(self.value) else None,
            "passed": self.passed,
            "note": self.note,
        }


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The student that has the alias now, on the candidate's benchmark."""

    version: str
    measured: Measured


def judge(gates: Sequence[Gate], candidate: Candidate, champion: Champion | None) -> tuple[Verdict, ...]:
    """What every gate says of a candidate.

    Args:
        champion: None where there is none yet, or no gate compares with it.
    """
    leads = {} if champion is None else _leads(candidate, champion)
    return tuple(_verdict(gate, candidate, champion, leads) for gate in gates)


def _leads(candidate: Candidate, champion: Champion) -> dict[str, Resampled]:
    """How far the candidate lies above the champion on the same people, by metric."""
    own, other = (
        resampled_metrics(similarity_P, candidate.benchmark, resamples=RESAMPLES)
        for similarity_P in (candidate.similarity_P, champion.measured.similarity_P)
    )
    return {f"{PREFIX}/{name}": own[name] - other[name] for name in own}


def _verdict(
    gate: Gate, candidate: Candidate, champion: Champion | None, leads: Mapping[str, Resampled]
) -> Verdict:
    said = partial(Verdict, gate=gate)
    match gate:
        case Bound():
            value = candidate.metrics[gate.metric]
            note = _pace(gate.metric, candidate) if gate.metric in FACES_PER_SECOND else ""
            return said(value=value, passed=gate.violation(value) <= 0, note=note)
        case TeacherGate():
            own, teachers = candidate.metrics[gate.metric], candidate.teacher_metrics[gate.metric]
            share = own / teachers if teachers else 1.0 if own == 0 else math.inf
            note = f"student {own:.4f}, teacher {teachers:.4f}"
            return said(value=share, passed=gate.bound.violation(share) <= 0, note=note)
        case GroupGate():
            of_group = {
                group: candidate.metrics[f"{gate.metric}_{group}"]
                for group in candidate.benchmark.group_names
            }
            worst = min(of_group, key=lambda group: of_group[group])
            note = f"{worst} is the lowest of {len(of_group)} groups"
            return said(value=of_group[worst], passed=of_group[worst] >= gate.no_group_below, note=note)
        case ChampionGate():
            if champion is None:
                return said(value=None, passed=True, note="there is no champion yet")
            lead = leads[gate.metric]
            interval = lead.interval_of(gate.confidence)
            note = (
                f"{100 * gate.confidence:g} % interval {interval.low:+.4f} to {interval.high:+.4f} "
                f"over {lead.over}, against version {champion.version}"
            )
            return said(value=lead.value, passed=interval.low >= gate.least_difference, note=note)


def _pace(metric: str, candidate: Candidate) -> str:
    low, high = (candidate.metrics[f"{metric}_{end}"] for end in ("low", "high"))
    return f"quartiles {low:.4g} to {high:.4g}, on one thread of {this_machine()}"


def read_gate(text: str) -> dict[str, Any]:
    """A gate of the command line as a file would have it: `METRIC >= LIMIT`, `METRIC <= LIMIT` or YAML.

    Raises:
        InputError: If it is none of these.
    """
    short = _SHORT.fullmatch(text)
    try:
        if short is None:
            gate = parse_value(text)
        else:
            metric, side, limit = short.groups()
            gate = {"metric": metric, "at_least" if side == ">=" else "at_most": parse_value(limit)}
    except ValueError as error:
        raise InputError(f"--gate {text!r} {error}") from error
    if not isinstance(gate, dict):
        raise InputError(
            f"--gate must be like 'benchmark/eer <= 0.1' or '{{no_group_below: 0.85}}', got {text!r}"
        )
    return gate
