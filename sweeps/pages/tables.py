"""The leaderboard with every trial, and what it takes to repeat the sweep."""

import shlex

from distill.checkpoint import BEST, read_card
from distill.errors import DivergenceError, InputError
from sweeps.columns import duration, metric_text, setting_text, short_names
from sweeps.pages.content import Content, Listing, MissingError, Table
from sweeps.pages.knowledge import Knowledge
from sweeps.pages.quantities import quantity


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
    head = [
        "rank",
        "trial",
        "state",
        *(each.label for each in shown),
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
    for index, row in enumerate(known.rows, start=1):
        values = row.values or [None] * len(objectives)
        rows.append(
            [
                str(index) if row.state == "complete" else "",
                str(row.number),
                row.state,
                *(
                    "" if value is None else metric_text(value * each.factor)
                    for value, each in zip(values, shown, strict=True)
                ),
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
    numeric = {0, 1, *range(3, 5 + len(objectives))}
    numeric |= {5 + len(objectives) + place for place, number in enumerate(is_number) if number}
    return Content(
        tables=[
            Table(
                caption="Every trial, best first",
                head=head,
                rows=rows,
                numeric=frozenset(numeric),
                wrapped=frozenset({width - 1} if has_reasons else ()),
                emphasised=frozenset({first}) if known.best is not None else frozenset(),
            )
        ]
    )


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
        faces = known.space.config(best.params).faces
        rows.append(("training faces", faces.training_digest()))
        rows.append((known.measured.pairs.name, known.measured.pairs.digest))
    except (InputError, DivergenceError):
        pass  # what cannot be read any more is told where it was to be shown
    return rows
