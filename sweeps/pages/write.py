"""The report of a study: its page and its pictures, in a folder and in MLflow."""

import os
import tempfile
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from distill.errors import DivergenceError, InputError
from sweeps.delivery import brief_requests
from sweeps.home import Home
from sweeps.pages import cost, hardest, parameters, pareto, resampling, search, tables, verification
from sweeps.pages.content import Content, MissingError, Picture, Section
from sweeps.pages.knowledge import Knowledge
from sweeps.pages.records import log_files
from sweeps.pages.words import facts, summary

PAGE = "report.html"
PREFIX = "report_"
"""Begins the name of every picture's file, which tells them from files that are not the report's."""
SECTIONS: tuple[tuple[str, str, Callable[[Knowledge], Content]], ...] = (
    ("history", "Optimisation history", search.history),
    ("curves", "Learning curves", search.curves),
    ("importances", "Parameter importances", parameters.importances),
    ("slices", "Slices", parameters.slices),
    ("parallel", "Parallel coordinates", parameters.parallel),
    ("pareto", "Accuracy against size", pareto.fronts),
    ("verification", "ROC and DET", verification.curves),
    ("groups", "Demographic groups", verification.groups),
    ("resampling", "Re-sampling over time", resampling.over_time),
    ("faces", "Explored and re-sampled faces", resampling.faces),
    ("hardest", "Hardest pairs", hardest.pairs),
    ("cost", "Cost", cost.cost),
    ("leaderboard", "Leaderboard", tables.leaderboard),
    ("repeat", "Repeat it", tables.repeat),
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written.

    Attributes:
        page: The page, which holds all of its pictures.
        pictures: The same pictures as files.
        not_logged: Why MLflow has no copy; None where it has one.
    """

    page: Path
    pictures: tuple[Path, ...]
    not_logged: str | None


def write_report(home: Home, name: str, *, folder: Path | None = None) -> Report:
    """Writes a study's report, and logs it to the run of its sweep.

    Args:
        folder: Where to. None: `report` in the folder of the study. Pictures of an earlier report there go.

    Raises:
        InputError: If the home has no study of that name, or the folder cannot be written.
    """
    with brief_requests():  # what a tracker that is away would have told is left out
        known = Knowledge(home, name)
        sections = sections_of(known)
        page = render(known, sections)
        folder = folder or home.study(name).root / "report"
        written, pictures = _write(page, sections, folder)
        not_logged = log_files(home, known.record, [written, *pictures])
    return Report(page=written, pictures=pictures, not_logged=not_logged)


def _write(page: str, sections: Iterable[Section], folder: Path) -> tuple[Path, tuple[Path, ...]]:
    """Writes the page and its pictures into a folder, and takes away those of an earlier one."""
    pictures = [picture for section in sections for picture in section.content.pictures]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = tuple(_replace(folder / f"{PREFIX}{each.name}.png", each.png) for each in pictures)
        for stale in set(folder.glob(f"{PREFIX}*.png")) - set(files):
            stale.unlink()
        return _replace(folder / PAGE, page.encode()), files
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from None


def sections_of(known: Knowledge, anchors: Collection[str] | None = None) -> list[Section]:
    """The sections; one that has nothing to show, or whose files cannot be read, says why.

    Args:
        anchors: Those that are made. None: all.
    """
    return [_section(known, *section) for section in SECTIONS if anchors is None or section[0] in anchors]


def render(known: Knowledge, sections: Iterable[Section]) -> str:
    """The page as HTML. All that is in it is escaped, since names are a user's own words."""
    environment = Environment(
        loader=PackageLoader("sweeps.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        name=known.name,
        description=known.space.description,
        state=known.state,
        made=f"{known.made:%d %B %Y, %H:%M}",
        summary=summary(known),
        facts=facts(known),
        sections=list(sections),
        data_uri=_data_uri,
    )


def _section(known: Knowledge, anchor: str, title: str, build: Callable[[Knowledge], Content]) -> Section:
    try:
        return Section(anchor=anchor, title=title, content=build(known))
    except (MissingError, InputError, DivergenceError) as error:
        sentence = str(error).strip()
        sentence = sentence[:1].upper() + sentence[1:]
        return Section(
            anchor=anchor, title=title, absent=sentence if sentence.endswith(".") else f"{sentence}."
        )


def _data_uri(picture: Picture) -> str:
    return f"data:image/png;base64,{b64encode(picture.png).decode()}"


def _replace(path: Path, content: bytes) -> Path:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".report-", delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
    return path
