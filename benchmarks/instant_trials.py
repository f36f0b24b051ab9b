"""The `sweeps` command with trials that train nothing: each reports a formula once. All else is real.

For each trial that ended, and at the end of all, it notes the processor time that this process, the driver,
has used by then: of all its threads, and of no other process.

    python -m benchmarks.instant_trials NOTES.json run SPACE ...
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from sweeps import cluster  # first: it sets what Ray reads when it is imported

# isort: split
import ray.tune

import sweeps.sweep
from sweeps.cli import main
from sweeps.ledger import Ledger
from sweeps.space import ResourcesSettings

assert cluster


def report_formula(task: dict[str, Any]) -> None:
    """A Tune function in place of a training."""
    lr = task["config"]["optimizer"]["lr"]
    ray.tune.report({"epoch": 1.0, "validation/verification_accuracy": 1 - lr})


def stand_in(resources: ResourcesSettings, **options: Any) -> Any:
    """What the sweep runs for each trial."""
    return ray.tune.with_resources(report_formula, resources.per_worker())


class TimedLedger(Ledger):
    """A ledger that looks at the processor's clock whenever a trial is complete."""

    used_s: list[float]

    def on_trial_complete(self, *args: Any, **info: Any) -> None:
        super().on_trial_complete(*args, **info)
        type(self).used_s.append(time.process_time())


if __name__ == "__main__":
    notes = Path(sys.argv.pop(1))
    TimedLedger.used_s = []
    sweeps.sweep.trainable = stand_in
    sweeps.sweep.Ledger = TimedLedger
    try:
        sys.exit(main())
    finally:
        notes.write_text(json.dumps([*TimedLedger.used_s, time.process_time()]))
