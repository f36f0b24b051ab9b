"""The leaderboard with every trial, and what it takes to repeat the sweep."""

import shlex
from collections.abc import Sequence

from distill.checkpoint import BEST, read_card
from distill.errors import DivergenceError, InputError
from sweeps.columns import duration, metric_text, setting_text, short_names
from sweeps.leaderboard import TrialRow, best_rows
from sweeps.pages.content import Content, Listing, MissingError, Table
from sweeps.pages.knowledge import Knowledge
from sweeps.pages.quantities import Quantity, quantity


def leaderboard(known: Knowledge) -> Content:
    """Every trial, best first, below the teacher."""
    if not known.rows:
        raise MissingError("No trial has begun.")
    objectives = known.space.objectives
    drawn = (name for row in known.rows for name in row.params)
    params = list(dict.fromkeys([*known.space.parameters, *drawn]))
    heads = short_names(params)
    shown = [quantity(objective.metric) for objective in objectives]
    has_reasons = any(row.reason for row in known.rows)
    leaders = {row.number for row in best_rows(known.rows)}
    seeds_head = ["seed", *(f"{each.label}, of the point" for each in shown)] if known.is_repeated else []
    head = [
        "rank",
        "trial",
        "state",
        *(each.label for each in shown),
        *seeds_head,
        "epochs",
        "time",
        *(heads[name] for name in params),
        *(["why it ended"] if has_reasons else []),
    ]
    width = len(head)
    rows: list[list[str]] = []
    if known.teacher:
        own = [
            metric_text(known.teacher[objective.metric] * each.factor)
            if objective.metric in known.teacher
            else ""
            for objective, each in zip(objectives, shown, strict=True)
        ]
        rows.append(["", "", "teacher", *own, *[""] * (width - 3 - len(own))])
    for row in known.rows:
        values = row.values or [None] * len(objectives)
        rows.append(
            [
                str(row.standing.place) if row.standing else "",
                str(row.number),
                row.state,
                *(
                    "" if value is None else metric_text(value * each.factor)
                    for value, each in zip(values, shown, strict=True)
                ),
                *(_of_point(row, shown, leads=row.number in leaders) if known.is_repeated else ()),
                str(row.epochs or ""),
                duration(row.seconds) if row.seconds else "",
                *(setting_text(row.params.get(name)) for name in params),
                *([row.reason or ""] if has_reasons else []),
            ]
        )
    first = 1 if known.teacher else 0
    is_number = [
        all(isinstance(row.params.get(name, 0.0), int | float) for row in known.rows) for name in params
    ]
    before = 5 + len(objectives) + len(seeds_head)
    numeric = {0, 1, *range(3, before)}
    numeric |= {before + place for place, number in enumerate(is_number) if number}
    text = []
    if known.is_repeated:
        text.append(
            "A rank is a point's, and so is what stands beside its best training: the mean over seeds, the "
            "standard deviation and how many count. Of a finalist, the trainings that confirm it count alone."
        )
    return Content(
        text=text,
        tables=[
            Table(
                caption="Every trial, best first",
                head=head,
                rows=rows,
                numeric=frozenset(numeric),
                wrapped=frozenset({width - 1} if has_reasons else ()),
                emphasised=frozenset({first}) if known.best is not None else frozenset(),
            )
        ],
    )


def _of_point(row: TrialRow, shown: Sequence[Quantity], *, leads: bool) -> list[str]:
    """Which seed trained it, and how its point stands where it leads the others."""
    seed = f"+{row.seed_offset}" if row.seed_offset else ""
    seed += ", confirms" if row.confirms else ""
    stands = row.standing
    if stands is None or not leads:
        return [seed, *[""] * len(shown)]
    means = [metric_text(value * each.factor) for value, each in zip(stands.mean, shown, strict=True)]
    if stands.spread is not None:
        spreads = [metric_text(value * each.factor) for value, each in zip(stands.spread, shown, strict=True)]
        means = [f"{m} ± {s} of {stands.num_seeds}" for m, s in zip(means, spreads, strict=True)]
    return [seed, *means]


def repeat(known: Knowledge) -> Content:
    """The command, the code, the versions and the digests behind the numbers."""
    record = known.record
    text, listings = [], []
    again = shlex.join(["sweeps", "run", "space.yaml", "--name", f"{known.name}-again"])
    if record is None or record.command is None:
        text.append("MLflow holds no record of the command that began this sweep.")
        commands = again
    else:
        code = f"git checkout {record.commit}\n" if record.commit else ""
        commands = f"{code}{record.command}"
        if record.commit is None:
            text.append("The code was no git checkout: its commit is not known.")
        if record.is_modified:
            text.append(
                "The code differed from its commit: the difference is uncommitted.diff in the sweep's run."
            )
        listings.append(Listing(title="The command that began it", text=commands))
        commands = again
    listings.append(Listing(title="The same from the space below", text=commands))
    listings.append(
        Listing(title="The resolved search space, space.yaml", text=known.space.to_yaml(), folded=True)
    )
    tables = []
    if digests := _digests(known):
        tables.append(Table(caption="Digests", head=("of", "digest"), rows=digests, row_heads=True))
    if record is not None and record.versions:
        rows = [(name, str(version)) for name, version in record.versions.items()]
        tables.append(Table(caption="Versions", head=("what", "version"), rows=rows, row_heads=True))
    else:
        text.append("Versions of packages are not recorded.")
    return Content(text=text, tables=tables, listings=listings)


def _digests(known: Knowledge) -> list[tuple[str, str]]:
    """Of the champion and of what made it; those that can be read."""
    if (best := known.best) is None:
        return []
    rows = []
    try:
        card = read_card(known.home.study(known.name).trial(best.number) / BEST)
        rows += [("champion's weights", card.sha256), ("teacher", card.teacher_digest)]
        faces = known.space.config(best.params, seed_offset=best.seed_offset).faces
        rows.append(("training faces", faces.training_digest()))
        rows.append((known.measured.pairs.name, known.measured.pairs.digest))
    except (InputError, DivergenceError):
        pass  # what cannot be read any more is told where it was to be shown
    return rows
