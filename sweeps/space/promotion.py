"""What becomes of the best student: which one it is, which gates it must pass, and where it is registered."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from distill.settings import Settings
from sweeps.space.gates import AnyGate, gate_problems
from sweeps.space.problems import Problem, nearest
from sweeps.space.settings import Bound, Objective

KNEE = "knee"
CHAMPION = "champion"
PREVIOUS = "previous"
_ALIAS = re.compile(r"[A-Za-z0-9_-]+")


class BudgetRule(Settings):
    """The trial that is best in one objective among those within a budget."""

    best: str
    """Metric of the objective that decides."""
    within: tuple[Bound, ...] = Field(min_length=1)
    """Limits of the budget, on metrics that trials report."""

    def __str__(self) -> str:
        return f"best {self.best} within {' and '.join(map(str, self.within))}"


def _rule(choice: Any) -> str | None:
    if isinstance(choice, dict | BudgetRule):
        return "budget"
    return KNEE if choice == KNEE else None


AnyRule = Annotated[
    Annotated[Literal["knee"], Tag(KNEE)] | Annotated[BudgetRule, Tag("budget")],
    Discriminator(
        _rule,
        custom_error_type="rule",
        custom_error_message="must be knee or {best: METRIC, within: [LIMIT, ...]}",
    ),
]
"""How one of several trials that do not surpass one another is chosen."""


class PromotionSettings(Settings):
    """What becomes of the best student."""

    model: str
    """Name in the model registry."""
    alias: str = CHAMPION
    """What points to the version that production loads."""
    choose: AnyRule | None = None
    """Which of the trials that no other surpasses in every objective. knee: the one that bulges out farthest
    between those that are best in one objective each. `{best: METRIC, within: [LIMIT, ...]}`: the best in one
    objective that keeps a budget. Unset: the first of the leaderboard, where there is one objective only."""
    gates: tuple[AnyGate, ...] = ()
    """Limits that the candidate must keep. Benchmark metrics are measured when it is promoted, not before."""
    automatic: bool = False
    """Whether a sweep promotes its best student, if the gates let it, when it ends."""

    @field_validator("model")
    @classmethod
    def _model_is_a_registry_name(cls, model: str) -> str:
        if not model.strip() or set(model) & set("/:") or model.strip(".") == "":
            raise ValueError(f"must be a name without / and :, got {model!r}")
        return model

    @field_validator("alias")
    @classmethod
    def _alias_is_free(cls, alias: str) -> str:
        if not _ALIAS.fullmatch(alias) or alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
            raise ValueError(
                f"must be of letters, digits, - and _, but not latest or a version like v1, got {alias!r}"
            )
        if alias.partition("-")[0] == PREVIOUS:
            raise ValueError(f"must not begin with {PREVIOUS}, which keeps former versions, got {alias!r}")
        return alias


def former_alias(alias: str) -> str:
    """The alias of the version that an alias pointed to before: where a rollback leads."""
    return PREVIOUS if alias == CHAMPION else f"{PREVIOUS}-{alias}"


def promotion_problems(
    promotion: PromotionSettings,
    objectives: Sequence[Objective],
    *,
    reported: list[str],
    measured: list[str],
) -> Iterator[Problem]:
    """What is wrong with a promotion in view of the metrics that there are.

    Args:
        reported: Metrics of every trial.
        measured: Metrics that are known of a candidate. Both are empty where that could not be found out.
    """
    for index, gate in enumerate(promotion.gates):
        yield from gate_problems(("promotion", "gates", index), gate, measured)
    path, names = ("promotion", "choose"), [objective.metric for objective in objectives]
    match promotion.choose:
        case None if promotion.automatic and len(names) > 1:
            claim = "is missing: with several objectives it says which trial is promoted, knee for one"
            yield Problem(path, claim)
        case "knee" if len(names) == 1:
            yield Problem(path, "must not be knee where there is one objective only")
        case BudgetRule(best=best, within=within):
            if best not in names:
                yield Problem((*path, "best"), f"must be an objective, got {best!r}; {nearest(best, names)}")
            for index, bound in enumerate(within):
                if reported and bound.metric not in reported:
                    claim = f"must be a metric that is reported, got {bound.metric!r}"
                    yield Problem(
                        (*path, "within", index, "metric"), f"{claim}; {nearest(bound.metric, reported)}"
                    )
