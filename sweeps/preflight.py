"""What is checked, and what is told, before anything of a sweep runs."""

from typing import Any

from sweeps import cluster  # before anything that imports ray: it sets what Ray reads when it is imported

# isort: split
import ray

from distill.config import TrialConfig
from distill.errors import RefusedError
from distill.evaluation import static_efficiency_of
from distill.teacher_check import check_teacher
from distill.teachers import Teacher
from distill.training.parts import CHECKED_FACES
from sweeps.checks import Check
from sweeps.home import Home
from sweeps.space import ResourcesSettings, SearchSpace
from sweeps.tracking import check_tracker


def diagnose(home: Home, address: str | None) -> list[Check]:
    """Every preflight check that needs no search space; those after one that fails too."""
    checks = [cluster.check_installation(), cluster.check_home(home)]
    try:
        with cluster.connected(address) as dashboard_url:
            checks += [
                Check(name="cluster", ok=True, finding=f"Ray answers at {address or 'a cluster of its own'}"),
                cluster.check_dashboard(dashboard_url),
                cluster.check_resources(ResourcesSettings(), ray.cluster_resources()),
            ]
    except RefusedError as error:
        checks.append(Check(name="cluster", ok=False, finding=str(error)))
    if all(check.ok for check in checks):
        checks.append(check_tracker(home))
    return checks


def plan(space: SearchSpace, address: str | None) -> dict[str, Any]:
    """What a sweep of this space would take, as far as it is known before it runs.

    Raises:
        RefusedError: If not one trial fits on the cluster.
    """
    config = space.config(space.first_point())
    epochs = config.training.epochs
    if address is None:
        total = cluster.own_resources()
    else:
        with cluster.connected(address):
            total = ray.cluster_resources()
    require(cluster.check_resources(space.resources, total))
    return {
        "study": space.name,
        "trials": space.search.num_trials,
        "at once": cluster.max_concurrent(space.resources, total),
        "epochs a trial": f"{space.first_rung} to {epochs}" if space.scheduler.name == "asha" else epochs,
        "faces an epoch": config.training.faces_per_epoch,
        "faces at most": space.search.num_trials * epochs * config.training.faces_per_epoch,
        "parameters": ", ".join(space.parameters) or "none",
    }


def checked(config: TrialConfig) -> Teacher:
    """The teacher of a trial, once all that trials and a promotion need has been found to be there and sound.

    Raises:
        InputError: If faces, teacher or student cannot be made.
    """
    static_efficiency_of(config.student, embedding_dim=config.student_dim(), size_px=config.faces.size_px)
    config.faces.training_digest()
    if config.faces.name != "embedded":  # whose pairs are drawn, and never damaged
        config.faces.validation_pairs()
        config.faces.benchmark_pairs()
    teacher = config.teacher.load()
    check_teacher(config.teacher, teacher, config.faces.agreement_faces(CHECKED_FACES))
    return teacher


def require(*checks: Check) -> None:
    """Refuses what the first check that failed found.

    Raises:
        RefusedError: If one did.
    """
    for check in checks:
        if not check.ok:
            raise RefusedError(check.finding)
