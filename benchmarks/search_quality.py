"""What searching well saves: TPE + ASHA against random search that stops nothing, at equal epochs.

Real sweeps (`sweeps run`) of real trials on the embedded world, which differ in sampler and scheduler alone;
all else is the product's default. Each trains one trial at a time, so that it comes out alike however busy
the machine is, until trials of so many epochs have ended, stopped and failed ones counted: the budget. What a
sweep has found by then is the best of its completed trials: it hands over the student of no stopped one.

The ratio of budgets is the epochs after which TPE + ASHA is as good as random search is at the end, over the
budget. Random search meets its best sooner, by chance, but does not know it then: that is told beside. Trials
of all arms are trained with the seed at hand. Every arm draws with seeds of its own, lest TPE begin with the
very points of random search.

Sweeps of the same space that `--home` holds already are not run again.

    python -m benchmarks.search_quality [--seeds 5] [--trials 16] [--arms all] [--home runs/search_quality]

E: epochs, S: seeds, R: resamples
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from distill.evaluation import Estimate, Interval
from sweeps.home import Home
from sweeps.leaderboard import TrialRow
from sweeps.pages.style import BLUE, GREEN, GREY, ORANGE, VERMILION, draw, handles_of, legend, name_y
from sweeps.space import SearchSpace, load_space
from sweeps.storage import study_names
from sweeps.study import load_study, read_space, trial_rows

EPOCHS = 9
SPACE = f"""
name: search-quality
objectives: [{{metric: validation/verification_accuracy, direction: maximize}}]
base:
  faces: {{name: embedded, domain: synthetic, size_px: 16}}
  method: {{name: synthdistill, resampling: adaptive_w}}
  training: {{epochs: {EPOCHS}, faces_per_epoch: 512}}
parameters:
  student.name: {{type: categorical, choices: [bridge_tiny, iresnet_small, mobilefacenet]}}
  student.width: {{type: float, low: 0.25, high: 0.5, step: 0.125, when: {{student.name: mobilefacenet}}}}
  optimizer.name: {{type: categorical, choices: [adam, sgd]}}
  optimizer.lr: {{type: float, low: 1e-4, high: 1e+0, log: true}}
  optimizer.weight_decay: {{type: float, low: 1e-5, high: 1e-1, log: true}}
  training.batch_size: {{type: categorical, choices: [16, 32, 64, 128]}}
  method.resampling_coef: {{type: float, low: 0.25, high: 2.0, log: true}}
  losses.raw_mse.weight: {{type: float, low: 1e-2, high: 1e+1, log: true}}
  losses.cosine.weight: {{type: float, low: 1e-2, high: 1e+1, log: true}}
search: {{num_trials: 1000}}
keep: {{students: 1}}
resources: {{max_concurrent: 1}}
"""
"""The quickstart's on smaller faces, with more settings and wider ranges: as when little is known yet.
Of its trials no sweep comes to the end: the budget comes first."""
GOAL = 1 / 3
RESAMPLES = 10_000
POLL_S = 2.0
UNFINISHED = ("running", "interrupted")
EXIT_CODES = (0, 4, 130)
"""Of a sweep that ended, of one some of whose trials failed, and of one that was interrupted."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way of searching.

    Attributes:
        key: Begins the names of its studies.
        first_seed: Of its sampler.
    """

    name: str
    key: str
    sampler: str
    scheduler: str
    colour: str
    first_seed: int


SEARCH = Arm(name="TPE + ASHA", key="tpe-asha", sampler="tpe", scheduler="asha", colour=BLUE, first_seed=0)
RANDOM = Arm(
    name="random", key="random", sampler="random", scheduler="none", colour=VERMILION, first_seed=1000
)
PARTS = (
    Arm(name="TPE alone", key="tpe", sampler="tpe", scheduler="none", colour=GREEN, first_seed=2000),
    Arm(
        name="random + ASHA",
        key="random-asha",
        sampler="random",
        scheduler="asha",
        colour=ORANGE,
        first_seed=3000,
    ),
)
"""Which of the two gives how much."""


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What one arm did with one seed.

    Attributes:
        best_E: The best so far after each epoch, -inf before a trial completed.
        num_trials: That ended within the budget.
    """

    best_E: NDArray[np.float64]
    num_trials: int
    num_completed: int


Found = dict[Arm, list[Searched]]
"""Of each arm, what it did with each seed."""


def searched(rows: Iterable[TrialRow], budget: int) -> Searched:
    """Follows trials in the order they were trained, one after the other.

    Args:
        rows: Those that ended. One that was interrupted left its epochs to the trial that went on from it.
        budget: Epochs. The trial in whose course they are used up counts as if it had ended with them: else
            random search, whose trials are long, would lose its last one to a single epoch.
    """
    best_E = np.full(budget, -math.inf)
    epochs = num_trials = num_completed = 0
    for row in rows:
        if row.state in UNFINISHED:
            continue
        if epochs >= budget:
            break
        epochs = min(epochs + row.epochs, budget)
        num_trials += 1
        if row.state == "complete" and row.values:
            num_completed += 1
            best_E[epochs - 1 :] = np.maximum(best_E[epochs - 1 :], row.values[0])
    return Searched(best_E=best_E, num_trials=num_trials, num_completed=num_completed)


def epochs_to_reach(best_E: NDArray[np.float64], target: float) -> float:
    """After how many epochs the best so far is `target` or better; inf where it never is."""
    reached_E = best_E >= target
    return float(reached_E.argmax() + 1) if reached_E.any() else math.inf


def estimated(value_S: Sequence[float], statistic: Callable[..., Any]) -> Estimate:
    """A statistic of the seeds, with its 95 % interval.

    Resamples draw one seed fewer than there are: see `benchmarks.findings_statistics.measure`.

    Args:
        value_S: Of which some may be inf: censored ones, that are larger than every other.
        statistic: Of numpy's: takes `axis`.
    """
    values = np.asarray(value_S, dtype=float)
    rng = np.random.default_rng(0)
    drawn_RS = values[rng.integers(len(values), size=(RESAMPLES, max(1, len(values) - 1)))]
    # No interpolation: between a number and inf there is nothing.
    low, high = np.quantile(statistic(drawn_RS, axis=1), (0.025, 0.975), method="nearest")
    return Estimate(
        value=float(statistic(values, axis=0)), interval=Interval(low=float(low), high=float(high))
    )


def ratios(search: Sequence[Searched], random: Sequence[Searched]) -> list[float]:
    """Of each seed: the share of the budget after which the search is as good as random is at the end."""
    return [
        epochs_to_reach(ours.best_E, theirs.best_E[-1]) / len(theirs.best_E)
        for ours, theirs in zip(search, random, strict=True)
    ]


def ratio_of_means(search: Sequence[Searched], random: Sequence[Searched]) -> Estimate:
    """As `ratios`, of the mean curves of all seeds; resamples draw the seeds of each arm by itself."""
    ours_SE, theirs_S = np.stack([run.best_E for run in search]), np.array([run.best_E[-1] for run in random])
    budget, rng = ours_SE.shape[1], np.random.default_rng(0)

    def ratio(own_S: NDArray[np.int64], other_S: NDArray[np.int64]) -> float:
        return epochs_to_reach(ours_SE[own_S].mean(axis=0), theirs_S[other_S].mean()) / budget

    sizes = (len(ours_SE), len(theirs_S))
    drawn_R = [
        ratio(*(rng.integers(size, size=max(1, size - 1)) for size in sizes)) for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn_R, (0.025, 0.975), method="nearest")
    value = ratio(*(np.arange(size) for size in sizes))
    return Estimate(value=value, interval=Interval(low=float(low), high=float(high)))


def run(arm: Arm, seed: int, *, home: Home, budget: int) -> Searched:
    """Runs an arm's sweep until its budget is used; goes on with one that was broken off.

    Raises:
        SystemExit: If the sweep fails, or the home holds one of that name but of another space.
    """
    name = f"{arm.key}-{seed}"
    overrides = {
        "seed": str(seed),
        "search.sampler": arm.sampler,
        "search.seed": str(arm.first_seed + seed),
        "scheduler.name": arm.scheduler,
    }
    home.ensure()
    path = home.root / "space.yaml"
    path.write_text(SPACE)
    sets = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
    sweep = _Sweep(home, name, load_space(str(path), overrides=overrides))
    if name not in study_names(home):
        sweep.drive("run", str(path), "--name", name, *sets, budget=budget)
    elif read_space(home, name) != sweep.space:
        raise SystemExit(f"{home.root} holds a sweep {name} of another space: choose another --home")
    elif sweep.epochs_ended() < budget:
        sweep.drive("resume", name, budget=budget)
    return searched(sweep.rows(), budget)


@dataclass(frozen=True)
class _Sweep:
    home: Home
    name: str
    space: SearchSpace

    def drive(self, *arguments: str, budget: int) -> None:
        """Drives it, and interrupts it as a user would, once trials of so many epochs have ended."""
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "sweeps"), *arguments, "--home", str(self.home.root)],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        told = False
        while process.poll() is None:
            if not told and self.epochs_ended() >= budget:
                process.send_signal(signal.SIGINT)
                told = True
            time.sleep(POLL_S)
        if process.returncode not in EXIT_CODES or self.epochs_ended() < budget:
            raise SystemExit(f"sweep {self.name} ended with {process.returncode} before its budget was used")

    def rows(self) -> list[TrialRow]:
        """Its trials in the order they were drawn; none before the first began."""
        begun = self.home.study(self.name).trial(0).parent.exists()
        return trial_rows(load_study(self.home, self.name), self.space) if begun else []

    def epochs_ended(self) -> int:
        """Of the trials that ended."""
        return sum(row.epochs for row in self.rows() if row.state not in UNFINISHED)


def plot(found: Found, *, budget: int) -> bytes:
    """The best so far of every arm: mean and interval over seeds, in percent, as PNG."""

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        epoch_E = np.arange(1, budget + 1)
        for arm, runs in found.items():
            best_SE = 100 * np.stack([run.best_E for run in runs])
            shown_E = np.isfinite(best_SE).all(axis=0)
            estimates = [estimated(best_S, np.mean) for best_S in best_SE.T[shown_E].tolist()]
            axes.step(
                epoch_E[shown_E],
                [e.value for e in estimates],
                where="post",
                color=arm.colour,
                label=arm.name,
                zorder=3,
            )
            axes.fill_between(
                epoch_E[shown_E],
                [e.interval.low for e in estimates],
                [e.interval.high for e in estimates],
                step="post",
                color=arm.colour,
                alpha=0.15,
                linewidth=0,
            )
        final = float(np.mean([100 * run.best_E[-1] for run in found[RANDOM]]))
        axes.axhline(final, color=RANDOM.colour, linestyle=":", linewidth=1.2, label="random's final best")
        axes.axvline(GOAL * budget, color=GREY, linestyle="--", linewidth=1.2, label="a third of the budget")
        axes.set_xlim(0, budget + 1)
        axes.set_xlabel("epochs trained, of all trials")
        name_y(axes, "best validation accuracy so far, %")
        legend(figure, handles_of(axes))

    return draw("search_quality", fill, alt="", caption="", height_inches=3.8).png


def as_markdown(found: Found, *, budget: int) -> str:
    """What each arm reached, and after how many epochs each seed of it was as good as random search."""
    lines = [
        f"| arm | best after {budget} epochs, % | trials | of them completed |",
        "|---|---|---|---|",
    ]
    for arm, runs in found.items():
        final = estimated([100 * run.best_E[-1] for run in runs], np.mean)
        lines.append(
            f"| {arm.name} | {final.value:.2f} ({final.interval.low:.2f} to {final.interval.high:.2f}) | "
            f"{np.mean([run.num_trials for run in runs]):.1f} | "
            f"{np.mean([run.num_completed for run in runs]):.1f} |"
        )
    names = " | ".join(arm.name for arm in found)
    lines += ["", f"| seed | random's final best, % | {names} |", "|---" * (len(found) + 2) + "|"]
    shares = {arm: ratios(runs, found[RANDOM]) for arm, runs in found.items()}
    for seed, theirs in enumerate(found[RANDOM]):
        epochs = [share[seed] * budget for share in shares.values()]
        cells = ["never" if math.isinf(number) else f"{number:.0f}" for number in epochs]
        lines.append(f"| {seed} | {100 * theirs.best_E[-1]:.2f} | {' | '.join(cells)} |")
    medians = [estimated(share, np.median) for share in shares.values()]
    means = [ratio_of_means(runs, found[RANDOM]) for runs in found.values()]
    for of, estimates in (("median", medians), ("of the mean curves", means)):
        cells = [
            f"{_ratio(e.value)} ({_ratio(e.interval.low)} to {_ratio(e.interval.high)})" for e in estimates
        ]
        lines.append(f"| **ratio of budgets**, {of} | | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(found: Found) -> str:
    """Whether the goal is reached, in a sentence."""
    ratio = estimated(ratios(found[SEARCH], found[RANDOM]), np.median)
    reached = "reached" if ratio.value <= GOAL else "not reached"
    return (
        f"{SEARCH.name} is as good as random search's final best after {_ratio(ratio.value)} of its budget "
        f"(median of {len(found[RANDOM])} seeds; 95 % interval {_ratio(ratio.interval.low)} to "
        f"{_ratio(ratio.interval.high)}): the goal of at most a third is {reached}."
    )


def _ratio(value: float) -> str:
    return "more than 1" if math.isinf(value) else f"{value:.2f}"


def as_json(found: Found, *, budget: int) -> dict[str, Any]:
    """Every curve and every ratio; null stands for a best before there was one, and for never."""
    return {
        "budget_epochs": budget,
        "epochs_of_a_trial": EPOCHS,
        "space": SPACE,
        "arms": {
            arm.name: {
                "best_so_far": [[_finite(value) for value in run.best_E.tolist()] for run in runs],
                "trials": [run.num_trials for run in runs],
                "completed": [run.num_completed for run in runs],
                "ratios": [_finite(ratio) for ratio in ratios(runs, found[RANDOM])],
            }
            for arm, runs in found.items()
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    os.replace(beside, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=16, help="full trials whose epochs are the budget")
    parser.add_argument("--arms", choices=("two", "all"), default="two", help="all: each part alone, too")
    parser.add_argument("--home", default="runs/search_quality")
    parser.add_argument("--plot", type=Path, default=Path("docs/images/search_quality.png"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    home, budget = Home.at(arguments.home), arguments.trials * EPOCHS
    found: Found = {arm: [] for arm in (SEARCH, RANDOM, *(PARTS if arguments.arms == "all" else ()))}
    for seed in range(arguments.seeds):
        for arm, runs in found.items():
            runs.append(run(arm, seed, home=home, budget=budget))
    document = json.dumps(as_json(found, budget=budget), indent=2)
    _write(home.root / "search_quality.json", document.encode())
    _write(arguments.plot, plot(found, budget=budget))
    print(document if arguments.json else f"{as_markdown(found, budget=budget)}\n\n{verdict(found)}")


if __name__ == "__main__":
    main()
