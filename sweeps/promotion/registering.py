"""A candidate that passed its gates becomes a version that an alias points to.

Each call leaves MLflow in a state that serves. Files come first, then the version with all its tags and its
description, then the alias of the former version, then the alias. What is cut off before leaves at most a
version that nothing points to, tagged as incomplete.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric, Run
from mlflow.exceptions import MlflowException

from distill.errors import RefusedError
from distill.faces import StyleGAN2FacesSettings
from distill.faces.stylegan2 import read_card as read_generator_card
from sweeps.delivery import PARENT_TAG
from sweeps.home import masked
from sweeps.model_card import Subject, model_card
from sweeps.promotion.gates import Verdict
from sweeps.promotion.measuring import PREFIX, Candidate
from sweeps.promotion.packing import MODEL_CARD, pack, stamp
from sweeps.registry import COMPLETE, GATES, INCOMPLETE, STATE, Registry, utc, who

MAX_DESCRIPTION = 5_000  # characters that MLflow's databases keep of a version's description
COMMIT_TAG = "mlflow.source.git.commit"
ACCURACY = f"{PREFIX}/verification_accuracy"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a candidate comes from.

    Attributes:
        tracking_uri: Of the records of its training.
        run: Its trial's.
        commit: Of the code that trained it; None where that is unknown.
    """

    study: str
    tracking_uri: str
    run: Run
    commit: str | None


def origin(source: Registry, study: str, candidate: Candidate) -> Origin:
    """Looks up a candidate's records.

    Raises:
        RefusedError: If there are none, or its run is still written.
    """
    number, run_id = candidate.row.number, candidate.row.run_id
    if run_id is None:
        raise RefusedError(f"trial {number} of {study} has no MLflow run to register a model from")
    with source.asking():
        run = source.client.get_run(run_id)
        parent = run.data.tags.get(PARENT_TAG)
        tags = {**(source.client.get_run(parent).data.tags if parent else {}), **run.data.tags}
    if run.info.status == "RUNNING":
        raise RefusedError(
            f"the MLflow run of trial {number} of {study} is still open: promote it when it has ended"
        )
    return Origin(study=study, tracking_uri=source.uri, run=run, commit=tags.get(COMMIT_TAG))


def register(
    registry: Registry,
    candidate: Candidate,
    verdicts: Sequence[Verdict],
    came: Origin,
    *,
    model: str,
    alias: str,
    why: str,
    folder: Path,
) -> str:
    """Registers a candidate and points the alias to it, last.

    Args:
        registry: Its own tracker's, or that of another server, which is then told where it comes from.
        why: The reason, in the words of who promotes.
        folder: Where it is packed; must not exist.

    Returns:
        The version.

    Raises:
        RefusedError: If it cannot be packed, or MLflow refuses. The alias is where it was.
    """
    about = _about(candidate, came, why=why)
    card = model_card(_subject(candidate, verdicts, model=model, about=about))
    pack(candidate, card, folder)
    is_home = registry.uri == came.tracking_uri
    mlflow.set_tracking_uri(registry.uri)  # a database resolves `models:/` by no other
    with registry.asking():
        registry.clear_up(model)
        experiment = came.run.info.experiment_id if is_home else _experiment(registry, came.study)
        logged = _upload(
            registry, folder, experiment=experiment, run_id=came.run.info.run_id if is_home else None
        )
        if is_home:
            _log_benchmark(registry, came.run.info.run_id, candidate, logged)
        _make_sure_of(registry, model)
        created = registry.client.create_model_version(
            model,
            source=logged.model_uri,
            run_id=came.run.info.run_id if is_home else None,
            model_id=logged.model_id,
            description=card[:MAX_DESCRIPTION],
            tags={**about, **_said(candidate, verdicts), STATE: INCOMPLETE},
        )
        registry.move(model, alias, str(created.version))
        registry.client.set_model_version_tag(model, created.version, STATE, COMPLETE)
    return str(created.version)


def _upload(registry: Registry, folder: Path, *, experiment: str, run_id: str | None) -> LoggedModel:
    """Puts a packed model among the logged models of an experiment. Its run stays as it ended."""
    client = registry.client
    logged = client.create_logged_model(experiment, name="student", source_run_id=run_id)
    stamp(folder, model_id=logged.model_id, location=logged.artifact_location, run_id=run_id)
    try:
        client.log_model_artifacts(logged.model_id, str(folder))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    return client.finalize_logged_model(logged.model_id, "READY")


def _log_benchmark(registry: Registry, run_id: str, candidate: Candidate, logged: LoggedModel) -> None:
    """Puts what the benchmark says on the run's page, and links the model there."""
    now = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now, 0, model_id=logged.model_id)
        for name, value in candidate.metrics.items()
        if name.startswith(("benchmark/", "export/"))
    ]
    registry.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    registry.client.log_batch(run_id, metrics=metrics)


def _make_sure_of(registry: Registry, model: str) -> None:
    try:
        registry.client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _experiment(registry: Registry, name: str) -> str:
    found = registry.client.get_experiment_by_name(name)
    return found.experiment_id if found else registry.client.create_experiment(name)


def _about(candidate: Candidate, came: Origin, *, why: str) -> dict[str, str]:
    """Where a version comes from, by name."""
    told = {
        "study": came.study,
        "trial": str(candidate.row.number),
        "chosen": candidate.chosen,
        "run": came.run.info.run_id,
        "tracking_uri": masked(came.tracking_uri),
        "commit": came.commit,
        "promoted_by": who(),
        "promoted_at": utc(time.time()),
        "why": why,
        "sha256": candidate.card.sha256,
        "teacher_digest": candidate.card.teacher_digest,
        "training_digest": candidate.config.faces.training_digest(),
        "benchmark_digest": candidate.benchmark.digest,
    }
    return {name: value for name, value in told.items() if value}


def _said(candidate: Candidate, verdicts: Sequence[Verdict]) -> dict[str, str]:
    """What the gates said, and the one number of the benchmark that a table of versions has room for."""
    sentences: dict[str, list[str]] = {}
    for verdict in verdicts:
        sentences.setdefault(f"gate.{verdict.gate.metric}", []).append(str(verdict))
    return {
        GATES: json.dumps([verdict.document() for verdict in verdicts]),
        **{name: "; ".join(said) for name, said in sentences.items()},
        ACCURACY: f"{candidate.metrics[ACCURACY]:.6g}",
    }


def _subject(
    candidate: Candidate, verdicts: Sequence[Verdict], *, model: str, about: Mapping[str, str]
) -> Subject:
    config = candidate.config
    generator_card = {}
    if isinstance(config.faces, StyleGAN2FacesSettings):
        generator_card = read_generator_card(config.faces.weights).model_dump(mode="json")
    return Subject(
        model=model,
        study=about["study"],
        trial=candidate.row.number,
        config=config,
        student=candidate.card,
        metrics=candidate.metrics,
        teacher_metrics=candidate.teacher_metrics,
        interval=candidate.interval,
        teacher_interval=candidate.teacher_interval,
        groups=candidate.benchmark.group_names,
        gates=[str(verdict) for verdict in verdicts],
        about=about,
        teacher_card=candidate.teacher.card,
        generator_card=generator_card,
        training_digest=about["training_digest"],
        benchmark_digest=about["benchmark_digest"],
        files={
            path.name: path.stat().st_size
            for path in sorted(candidate.folder.iterdir())
            if path.name != MODEL_CARD
        },
    )
