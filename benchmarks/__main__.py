"""Measures every layer against what a user would do instead, or against a bound, and prints one table.

python -m benchmarks [--only NAME,NAME] [--quick] [--json FILE] [--against OLD.json]
"""

import argparse
import importlib
import sys
import traceback
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="NAME[,NAME]", help="measure these alone; see --list")
    parser.add_argument("--quick", action="store_true", help="the least sizes: only to see that all runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--against", type=Path, metavar="OLD.json", help="name what became slower since then")
    parser.add_argument("--list", action="store_true", help="list what there is to measure")
    arguments = parser.parse_args()
    if arguments.list:
        width = max(map(len, MEASUREMENTS))
        print("\n".join(f"{name:<{width}}  {what}" for name, what in MEASUREMENTS.items()))
        return 0
    try:
        names = _chosen(arguments.only)
        before = read_table(arguments.against) if arguments.against else None
        rows, failed = _measure(names, quick=arguments.quick)
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
    if failed:
        print(f"\ncould not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _chosen(only: str | None) -> list[str]:
    names = list(MEASUREMENTS) if only is None else only.split(",")
    for name in names:
        if name not in MEASUREMENTS:
            raise InputError(f"--only must name some of {', '.join(MEASUREMENTS)}, got {name!r}")
    return names


def _measure(names: list[str], *, quick: bool) -> tuple[list[Row], list[str]]:
    """The rows, and what broke: the rest is measured all the same, since it takes long."""
    rows: list[Row] = []
    failed = []
    for name in names:
        print(f"{name}: {MEASUREMENTS[name]}", end=" ... ", flush=True)
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
