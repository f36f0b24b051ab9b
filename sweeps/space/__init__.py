"""Search spaces: from a YAML file to typed settings, and from those to Optuna."""

from sweeps.space.gates import ChampionGate, Gate, GroupGate, TeacherGate
from sweeps.space.load import load_space, packaged_names, parse_space
from sweeps.space.metrics import gate_metrics, reported_metrics
from sweeps.space.model import SearchSpace
from sweeps.space.parameters import AnyParameter, CategoricalParameter, FloatParameter, IntParameter
from sweeps.space.problems import SpaceError
from sweeps.space.promotion import BudgetRule, PromotionSettings
from sweeps.space.settings import (
    Bound,
    BudgetSettings,
    ConfirmSettings,
    KeepSettings,
    Objective,
    ResourcesSettings,
    SchedulerSettings,
    SearchSettings,
)

__all__ = [
    "AnyParameter",
    "Bound",
    "BudgetRule",
    "BudgetSettings",
    "CategoricalParameter",
    "ChampionGate",
    "ConfirmSettings",
    "FloatParameter",
    "Gate",
    "GroupGate",
    "IntParameter",
    "KeepSettings",
    "Objective",
    "PromotionSettings",
    "ResourcesSettings",
    "SchedulerSettings",
    "SearchSettings",
    "SearchSpace",
    "SpaceError",
    "TeacherGate",
    "gate_metrics",
    "load_space",
    "packaged_names",
    "parse_space",
    "reported_metrics",
]
