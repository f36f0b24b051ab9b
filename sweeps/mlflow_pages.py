"""What MLflow's pages show of a study as they come: its description, and the columns of its runs.

MLflow keeps the columns of its table of runs in the browser, but opens its page with those of an experiment's
tag where the address asks for them, as its own button "share" does (read in MLflow 3.17's pages).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.columns import short_names

VIEW = "trials"
"""Names the view in the page's address."""
MAX_COLUMNS = 6


def experiment_tags(study: str, space: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a study's experiment that MLflow's pages read.

    Args:
        space: The resolved search space, in plain types.
    """
    metrics = [objective["metric"] for objective in space["objectives"]]
    parameters = list(space.get("parameters", {}))
    return {
        "mlflow.note.content": _description(study, space, metrics, parameters),
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.experiment.primaryMetric.name": f"best/{metrics[0]}",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(_view(metrics, parameters)),
    }


def run_name(number: int, *, student: str, method: str, params: Mapping[str, Any]) -> str:
    """A run's name for people: its number, by which names sort, and what tells it from others."""
    short = short_names(list(params))
    numbers = [
        f"{short[name]}={value:.3g}"
        for name, value in params.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return " ".join([f"{number:03d}", student, method, *numbers[:2]])


def _description(
    study: str, space: Mapping[str, Any], metrics: Sequence[str], parameters: Sequence[str]
) -> str:
    goals = [f"{goal['direction']}s `{goal['metric']}`" for goal in space["objectives"]]
    lines = [
        f"**{study}**: a sweep that {' and '.join(goals)}.",
        space.get("description") or "",
        "One child run a trial; `best/` holds what its best epoch measured. Searched: "
        + (", ".join(f"`{name}`" for name in parameters) or "nothing")
        + ".",
        "Filter with `tags.state = 'complete'`, `tags.pareto = 'true'`, `tags.student = '...'`, "
        "`tags.method = '...'`.",
    ]
    return "\n\n".join(line for line in lines if line)


def _view(metrics: Sequence[str], parameters: Sequence[str]) -> dict[str, Any]:
    columns = [
        *(f"metrics.`best/{metric}`" for metric in metrics),
        *(f"params.`{name}`" for name in parameters[:MAX_COLUMNS]),
        "tags.`state`",
        "attributes.`Dataset`",
        "attributes.`Models`",
    ]
    return {
        "orderByKey": f"metrics.`best/{metrics[0]}`",
        "orderByAsc": False,
        "selectedColumns": columns,
    }
