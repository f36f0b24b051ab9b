"""What a sweep cost: when its trials ran, for how long, and what stopping them early has saved."""

import datetime

from matplotlib.figure import Figure

from sweeps.columns import duration
from sweeps.pages.content import Content, MissingError, Picture, Table
from sweeps.pages.knowledge import Knowledge
from sweeps.pages.quantities import counted
from sweeps.pages.style import LOOKS, draw, handles_of, legend, name_y, whole_numbers

Span = tuple[float, float]
"""Begin and end, in seconds since the first trial began."""


def cost(known: Knowledge) -> Content:
    """Time, epochs and trials, as a table and as a picture."""
    spans = spans_of(known)
    if not spans:
        raise MissingError("No trial has begun.")
    return Content(pictures=[_timeline(known, spans)], tables=[_table(known, spans)])


def spans_of(known: Knowledge) -> dict[int, Span]:
    """When each trial ran; those that run still, until now."""
    now = datetime.datetime.now()
    began = {row.number: known.trials[row.number].datetime_start for row in known.rows}
    first = min((start for start in began.values() if start is not None), default=now)
    return {
        number: (
            (start - first).total_seconds(),
            ((known.trials[number].datetime_complete or now) - first).total_seconds(),
        )
        for number, start in began.items()
        if start is not None
    }


def busy_seconds(spans: list[Span]) -> float:
    """Time in which at least one trial ran: a sweep that slept overnight was not slow."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def _table(known: Knowledge, spans: dict[int, Span]) -> Table:
    busy = busy_seconds(list(spans.values()))
    ended = [row for row in known.rows if row.state != "running"]
    done = sum(row.epochs for row in known.rows)
    pruned = [row for row in known.rows if row.state == "pruned" and row.epochs]
    saved = {row.number: known.epochs_of(row) - row.epochs for row in pruned}
    saved_s = sum(row.seconds / row.epochs * saved[row.number] for row in pruned)
    total_s = sum(row.seconds for row in known.rows)
    rows = [
        ("trials", known.states()),
        ("planned", counted(known.space.search.num_trials, "trial")),
        ("time in which trials ran", duration(busy)),
        ("time of all trials together", duration(total_s)),
        ("trials ended an hour", f"{3600 * len(ended) / busy:.1f}" if busy else "unknown"),
        ("epochs trained", f"{done:,}"),
    ]
    if saved:
        share = sum(saved.values()) / (done + sum(saved.values()))
        rows.append(
            (
                "epochs saved by stopping early",
                f"{sum(saved.values()):,}, {share:.0%} of what the same trials would have taken; about "
                f"{duration(saved_s)} of training",
            )
        )
    if known.best is not None:
        rows.append(("the champion's training", duration(known.best.seconds)))
    reasons = [row.reason for row in known.rows if row.state == "failed" and row.reason]
    for reason in dict.fromkeys(reasons):
        rows.append((f"failed {counted(reasons.count(reason), 'time')}", reason))
    return Table(caption="Time, epochs and trials", head=("what", "how much"), rows=rows, row_heads=True)


def _timeline(known: Knowledge, spans: dict[int, Span]) -> Picture:
    last = max(end for _, end in spans.values())
    unit, seconds = next(
        ((unit, seconds) for unit, seconds in (("hours", 3600), ("minutes", 60)) if last > 2 * seconds),
        ("seconds", 1),
    )

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        for row in known.rows:
            if row.number in spans:
                begin, end = (moment / seconds for moment in spans[row.number])
                look = LOOKS[row.state]
                is_champion = row is known.best
                axes.barh(
                    row.number,
                    max(end - begin, last / seconds / 400),
                    left=begin,
                    height=0.72,
                    color=look.colour if look.filled else "white",
                    edgecolor=look.colour,
                    hatch=None if look.filled else "////",
                    linewidth=0.8,
                    label=row.state,
                )
                if is_champion:
                    axes.annotate(
                        "★", (end, row.number), xytext=(3, 0), textcoords="offset points", va="center"
                    )
        numbers = list(spans)
        axes.set_ylim(max(numbers) + 0.7, min(numbers) - 0.7)
        axes.set_xlim(0, 1.04 * last / seconds or 1)
        axes.set_xlabel(f"{unit} since the first trial began")
        name_y(axes, "trial")
        axes.grid(axis="y", visible=False)
        whole_numbers(axes.yaxis)
        legend(figure, handles_of(axes))

    height = min(7.0, 1.3 + 0.17 * len(spans))
    return draw(
        "timeline",
        plot,
        height_inches=max(2.2, height),
        alt=f"When each of {counted(len(spans), 'trial')} ran, over {duration(last)}.",
        caption="When each trial ran, and how it ended. The star is the champion.",
    )
