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


def experiment_tags(space: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a study's experiment that MLflow's pages read.

    Args:
        space: The resolved search space, in plain types.
    """
    metrics = [objective["metric"] for objective in space["objectives"]]
    parameters = list(space.get("parameters", {}))
    return {
        "mlflow.note.content": _description(space, metrics, parameters),
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.experiment.primaryMetric.name": f"best/{metrics[0]}",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(_view(space["objectives"][0], metrics, parameters)),
    }


def trials_page(experiment_id: str) -> str:
    """Where MLflow shows a study's trials with these columns, below its address."""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def run_name(number: int, *, student: str, method: str, params: Mapping[str, Any]) -> str:
    """A run's name for people: its number, by which names sort, and what tells it from others."""
    short = short_names(list(params))
    numbers = [
        f"{short[name]}={value:.3g}"
        for name, value in params.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return " ".join([f"{number:03d}", student, method, *numbers[:2]])


def _description(space: Mapping[str, Any], metrics: Sequence[str], parameters: Sequence[str]) -> str:
    """In Markdown; the list of experiments shows it plain."""
    goals = [
        f"{goal['direction']}s {metric}" for goal, metric in zip(space["objectives"], metrics, strict=True)
    ]
    lines = [
        f"A sweep that {' and '.join(goals)}.",
        space.get("description") or "",
        f"Searched: {', '.join(parameters) or 'nothing'}.",
        "One child run a trial; best/ holds what its best epoch measured. Filter with "
        "`tags.state = 'complete'`, `tags.pareto = 'true'`, `tags.student = '...'`, `tags.method = '...'`.",
    ]
    return "\n\n".join(line for line in lines if line)


def _view(first: Mapping[str, Any], metrics: Sequence[str], parameters: Sequence[str]) -> dict[str, Any]:
    """The table of runs, best first, with what tells trials apart before what MLflow knows of every run."""
    widths = {
        "attributes.`Run Name`": 340,
        **{f"metrics.`best/{metric}`": max(120, 13 * len(f"best/{metric}") // 2) for metric in metrics},
        **{f"params.`{name}`": max(120, 7 * len(name)) for name in parameters[:MAX_COLUMNS]},
        "tags.`state`": 80,
        "attributes.`Models`": 140,
        "runDateAndNestInfo": 130,
        "duration": 90,
    }
    return {
        "orderByKey": f"metrics.`best/{metrics[0]}`",
        "orderByAsc": first["direction"] == "minimize",
        "selectedColumns": [name for name in widths if name.startswith(("metrics", "params", "tags"))]
        + ["attributes.`Models`"],
        "columnOrder": list(widths),
        "columnWidths": widths,
    }
