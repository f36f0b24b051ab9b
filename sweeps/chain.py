"""Two studies in a row: the best student of the first teaches those of the second."""

import json

from distill.checkpoint import BEST, read_card
from sweeps.home import Home
from sweeps.promotion import select
from sweeps.study import load_study, read_space


def teacher_from(home: Home, name: str) -> dict[str, str]:
    """What `--set` would say to make the best student of a study the teacher of a sweep.

    Args:
        name: Of the study, whose students are in `home`.

    Returns:
        The override of `base.teacher`, which names the student's folder and its digest.

    Raises:
        InputError: If there is no such study.
        RefusedError: If none of its trials is complete and feasible.
    """
    best = select(load_study(home, name), read_space(home, name), trial=None)
    folder = home.study(name).trial(best.number) / BEST
    teacher = {"name": "distilled", "folder": str(folder), "sha256": read_card(folder).sha256}
    return {"base.teacher": json.dumps(teacher)}
