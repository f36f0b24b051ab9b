"""What every metric of a trial was, epoch after epoch, as MLflow holds it."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient

from sweeps.home import Home

AT_ONCE = 8
"""Metrics that are asked for at a time: a request brings the history of one, and a server may be far."""


def learning_curves(
    home: Home, run_id: str, names: Iterable[str] | None = None
) -> dict[str, list[tuple[int, float]]]:
    """Every metric that was reported by epoch, in the order of epochs.

    A trial that was begun again reported some epochs twice: what it said last counts. What belongs to no
    epoch, such as the benchmark's metrics, is left out.

    Args:
        run_id: The trial's run.
        names: The metrics that are wanted, of which some may not exist. None: all.

    Returns:
        By metric, its epochs, counted from 1, and its values at them. A metric without any is absent.

    Raises:
        MlflowException: If there is no such run, or the tracker does not answer.
    """
    client = MlflowClient(tracking_uri=home.tracking_uri)
    known = client.get_run(run_id).data.metrics
    chosen = [name for name in (known if names is None else names) if name in known]

    def curve(name: str) -> list[tuple[int, float]]:
        history = sorted(client.get_metric_history(run_id, name), key=lambda metric: metric.timestamp)
        return sorted({metric.step: metric.value for metric in history if metric.step > 0}.items())

    with ThreadPoolExecutor(AT_ONCE) as threads:
        curves = zip(chosen, threads.map(curve, chosen), strict=True)
        return {name: points for name, points in curves if points}
