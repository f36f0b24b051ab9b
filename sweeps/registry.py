"""Students out of MLflow's registry, for who names them by `models:/NAME@ALIAS`."""

import os
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from distill.checkpoint import CARD
from distill.errors import InputError
from sweeps.home import Home


def fetch_student(uri: str) -> Path:
    """Fetches a registered student, from the tracker of the environment or else of the home.

    Returns:
        Its folder, a copy.

    Raises:
        InputError: If nothing is registered there, or it is no student.
    """
    home = Home.at()
    database = home.tracking_uri.removeprefix("sqlite:///")
    if database != home.tracking_uri and not Path(database).exists():  # MLflow would make an empty one
        raise InputError(f"there is no student at {uri}, since there is no database {database}")
    mlflow.set_tracking_uri(home.tracking_uri)
    try:
        folder = Path(download_artifacts(uri))
        data = Model.load(folder).flavors["python_function"]["data"]
    except (MlflowException, OSError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"there is no student at {uri} in {home.tracking_uri} ({reason})") from error
    if not (folder / data / CARD).is_file():
        raise InputError(f"{uri} in {home.tracking_uri} is no student: it has no {CARD}")
    return folder / data
