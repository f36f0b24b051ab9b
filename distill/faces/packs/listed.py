"""Pairs that a text file lists, over a folder of images.

Three forms are read, told apart by content:

- LFW's: `name n1 n2` is a genuine pair, `name1 n1 name2 n2` an impostor pair, of the images
  `name/name_0001.jpg` and so on. Columns are parted by tabs, or by spaces where there is no tab. The first
  line may be a header, such as `10 300`. Huang et al., "Labeled Faces in the Wild", 2007.
- CSV, if the first line has the columns left, right and genuine, and perhaps group, in any order: two paths,
  relative to the folder; 0, 1, false or true; the demographic group of both people.
- RFW's: LFW's for each group, `txts/<Group>/<Group>_pairs.txt` over `data/<Group>`. Wang et al., "Racial
  Faces in the Wild", ICCV 2019, https://arxiv.org/abs/1812.00194.
"""

import csv
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from distill.errors import InputError
from distill.faces.packs.index import Face, Pair
from distill.file_kinds import looks_like

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_COLUMNS = {"left", "right", "genuine"}
_ANSWERS = {"0": False, "false": False, "1": True, "true": True}


def listed_pairs(listing: Path, folder: Path) -> list[Pair]:
    """The pairs of a file in LFW's form or in CSV, in its order.

    Raises:
        InputError: If the file is missing, is no such list, or names an image that is not in the folder.
    """
    first = next(_lines(listing), (1, ""))[1]
    if set(_columns(first)) >= _COLUMNS:
        return _csv_pairs(listing, folder)
    return _lfw_pairs(listing, folder)


def rfw_listings(folder: Path) -> dict[str, Path]:
    """The lists of a folder in RFW's layout, by group, sorted.

    Raises:
        InputError: If it has another layout.
    """
    groups = sorted(path.name for path in folder.glob("txts/[!.]*") if path.is_dir())
    if not groups:
        packs = sorted(folder.glob("*.bin"))
        hint = f"; to read the pack {packs[0].name}, name the file itself" if packs else ""
        raise InputError(
            f"{folder} is no folder in RFW's layout, it lacks txts/<Group>/<Group>_pairs.txt, and no list of "
            f"pairs is named{hint}"
        )
    return {group: folder / "txts" / group / f"{group}_pairs.txt" for group in groups}


def rfw_pairs(folder: Path) -> list[Pair]:
    """The pairs of a folder in RFW's layout, group by group.

    Raises:
        InputError: As `listed_pairs`; or if the folder has another layout, or two groups have one name.
    """
    listings = rfw_listings(folder)
    if len({_metric_name(group) for group in listings}) < len(listings):
        raise InputError(f"{folder} has groups whose names differ in punctuation only: {', '.join(listings)}")
    return [
        pair
        for group, listing in listings.items()
        for pair in _lfw_pairs(listing, folder / "data" / group, group=_metric_name(group))
    ]


def _lfw_pairs(listing: Path, folder: Path, *, group: str = "") -> list[Pair]:
    @functools.cache
    def face(name: str, number: str) -> Face:
        if not re.fullmatch("[0-9]{1,9}", number) or PurePosixPath(name).name != name or name in ("", ".."):
            raise InputError(
                f"{listing} names the image {number!r} of {name!r}, which is no number of a person"
            )
        for extension in _EXTENSIONS:
            path = folder / name / f"{name}_{int(number):04d}{extension}"
            if os.path.isfile(path):  # other than Path's, it takes any name
                return Face(source=path, title=str(path), person=f"{group}/{name}")
        raise InputError(
            f"{listing} names image {number} of {name}, and there is no {name}_{int(number):04d}.jpg in "
            f"{folder / name}, nor in another format"
        )

    pairs = []
    for number, line in _lines(listing):
        columns = [column.strip() for column in (line.split("\t") if "\t" in line else line.split())]
        match columns:
            case [name, first, second]:
                pairs.append(Pair(face(name, first), face(name, second), True, group))
            case [name, first, other, second] if name != other:
                pairs.append(Pair(face(name, first), face(other, second), False, group))
            case [*counts] if number == 1 and len(counts) <= 2 and all(map(str.isdecimal, counts)):
                pass
            case _:
                raise InputError(
                    f"line {number} of {listing} must be `name n1 n2`, or `name1 n1 name2 n2` of two people, "
                    f"got {line[:80]!r}"
                )
    return pairs


def _csv_pairs(listing: Path, folder: Path) -> list[Pair]:
    @functools.cache
    def face(name: str) -> Face:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{listing} names {name!r}, which must be a path inside of {folder}")
        if not os.path.isfile(path := folder / name):
            raise InputError(f"{listing} names {path}, and there is no such image")
        return Face(source=path, title=str(path))

    lines = _lines(listing)
    header = _columns(next(lines)[1])
    if len(header) != len(set(header)) or not set(header) <= {*_COLUMNS, "group"}:
        raise InputError(
            f"{listing} must have the columns left, right, genuine and perhaps group, got {header}"
        )
    pairs = []
    for number, line in lines:
        row = dict(zip(header, _columns(line), strict=False))
        answer = _ANSWERS.get(row.get("genuine", "").lower())
        group = _metric_name(row.get("group", ""))
        if len(_columns(line)) != len(header) or answer is None or ("group" in header and not group):
            raise InputError(
                f"line {number} of {listing} must hold {','.join(header)}, where genuine is 0, 1, false or "
                f"true, got {line[:80]!r}"
            )
        pairs.append(Pair(face(row["left"]), face(row["right"]), answer, group))
    return pairs


def _lines(listing: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, counted from 1."""
    try:
        with listing.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{listing} is no list of pairs: it looks like {looks_like(listing)}") from error
    except OSError as error:
        raise InputError(f"{listing} cannot be read ({error.strerror})") from error


def _columns(line: str) -> list[str]:
    try:
        return [column.strip() for column in next(csv.reader([line]))]
    except csv.Error:
        return []


def _metric_name(group: str) -> str:
    """Metrics are named after groups: `East Asian` becomes `east_asian`."""
    return re.sub("[^a-z0-9]", "_", group.strip().lower())
