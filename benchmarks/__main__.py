"""Measures every layer against what a user would do instead, or against a bound, and prints one table.

python -m benchmarks [--gpu] [--only NAME,NAME] [--quick] [--json FILE] [--against OLD.json]
"""

import argparse
import importlib
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from benchmarks.row import Row, seconds
from benchmarks.table import Table, of_this_machine, read_table, slower
from distill.errors import InputError

MEASUREMENTS = {
    "trial_overhead": "a sweep of short trials in place, against a TorchTrainer for each",
    "distributed_start": "a distributed trial's way to its first step, against the same",
    "training_loop": "a trial's loop against a bare one, and SynthDistill against the published loop",
    "teacher_cache": "a sweep with cached teacher embeddings, against one without",
    "tracking_cost": "a trial that is recorded, against one that is not",
    "driver": "what a thousand instant trials cost the driver",
    "evaluation_speed": "verification and fairness, against plain loops",
    "smallest_student": "faces a second on one CPU thread, against the paper",
    "start_up": "imports and `sweeps --help`",
    "record_reading": "shuffled batches of a pack, against plain decoding",
    "large_pack": "a pack of 50 GB: its first batch, and memory",
}
"""Modules of this package, each with a `measure(quick) -> list[Row]`, in the order that they run in."""
GPU_MEASUREMENTS = {
    "paper_size": "SynthDistill at its paper's size, against the published loop and the floor",
    "smallest_student_gpu": "faces a second on a GPU, against the paper",
}
"""Likewise, of what is worth measuring on a GPU alone. Without one, `--quick` runs them on the CPU."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="measure what is worth measuring on a GPU alone")
    parser.add_argument("--only", metavar="NAME[,NAME]", help="measure these alone; see --list")
    parser.add_argument("--quick", action="store_true", help="the least sizes: only to see that all runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--against", type=Path, metavar="OLD.json", help="name what became slower since then")
    parser.add_argument("--list", action="store_true", help="list what there is to measure")
    arguments = parser.parse_args()
    measurements = GPU_MEASUREMENTS if arguments.gpu else MEASUREMENTS
    if arguments.list:
        width = max(map(len, measurements))
        print("\n".join(f"{name:<{width}}  {what}" for name, what in measurements.items()))
        return 0
    try:
        chosen = _chosen(measurements, arguments.only)
        before = read_table(arguments.against) if arguments.against else None
        rows, failed = _measure(chosen, quick=arguments.quick)
        table = Table(rows=rows, quick=arguments.quick, made=of_this_machine())
        print("\n" + table.markdown())
        if arguments.json:
            table.write(arguments.json)
        if before is not None:
            worse = slower(table, before)
            print("\n" + "\n".join(worse or [f"nothing became slower than in {arguments.against}"]))
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was written", file=sys.stderr)
        return 130
    if failed:
        print(f"\ncould not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _chosen(measurements: Mapping[str, str], only: str | None) -> dict[str, str]:
    names = list(measurements) if only is None else only.split(",")
    for name in names:
        if name not in measurements:
            raise InputError(f"--only must name some of {', '.join(measurements)}, got {name!r}")
    return {name: measurements[name] for name in names}


def _measure(chosen: Mapping[str, str], *, quick: bool) -> tuple[list[Row], list[str]]:
    """The rows, and what broke: the rest is measured all the same, since it takes long."""
    rows: list[Row] = []
    failed = []
    for name, what in chosen.items():
        print(f"{name}: {what}", end=" ... ", flush=True)
        try:
            taken = seconds(
                lambda name=name: rows.extend(importlib.import_module(f"benchmarks.{name}").measure(quick))
            )
            print(f"{taken:.0f} s", flush=True)
        except Exception:
            print("failed", flush=True)
            traceback.print_exc()
            failed.append(name)
    return rows, failed


if __name__ == "__main__":
    sys.exit(main())
