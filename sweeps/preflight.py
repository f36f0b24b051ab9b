"""What is checked, and what is told, before anything of a sweep runs."""

import shutil

from sweeps import cluster  # before anything that imports ray: it sets what Ray reads when it is imported

# isort: split
from distill.config import TrialConfig
from distill.errors import RefusedError
from distill.evaluation import static_efficiency_of
from distill.teacher_check import check_teacher
from distill.teachers import Teacher
from distill.training.parts import CHECKED_FACES
from sweeps.checks import Check, size
from sweeps.home import Home
from sweeps.nodes import check_nodes
from sweeps.space import ResourcesSettings
from sweeps.storage import check_storage
from sweeps.tracking import check_tracker

KEPT_FREE = 64 * 2**20
"""Bytes for logs, and for databases that are made."""


def diagnose(home: Home, address: str | None) -> list[Check]:
    """Every preflight check that needs no search space; those after one that fails too."""
    checks = [
        cluster.check_installation(),
        cluster.check_home(home),
        check_disk(home, 0),
        check_storage(home),
        cluster.check_token(address),
    ]
    try:
        with cluster.connected(address) as dashboard_url:
            checks.append(
                Check(name="cluster", ok=True, finding=f"Ray answers at {address or 'a cluster of its own'}")
            )
            dashboard = cluster.check_dashboard(dashboard_url)
            checks.append(dashboard)
            if dashboard.ok:
                checks.append(cluster.check_state_api(dashboard_url))
            nodes = cluster.nodes()
            checks.append(cluster.check_resources(ResourcesSettings(), nodes))
            checks += check_nodes(home, nodes)
    except RefusedError as error:
        checks.append(Check(name="cluster", ok=False, finding=str(error)))
    if all(check.ok for check in checks):
        checks.append(check_tracker(home))
    return checks


def check_disk(home: Home, needed: int) -> Check:
    """Whether the disk under the home has room for what a sweep writes.

    Args:
        needed: Bytes.
    """
    free = shutil.disk_usage(home.nearest).free
    if free < needed + KEPT_FREE:
        return Check(
            name="disk",
            ok=False,
            finding=f"the disk under {home.root} has {size(free)} free, and the sweep takes about "
            f"{size(needed)} beside {size(KEPT_FREE)} for records: make room, or choose another with --home",
        )
    return Check(name="disk", ok=True, finding=f"{size(free)} free under {home.root}")


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
