"""What a section of the page is made of, before it is HTML."""

from collections.abc import Sequence
from dataclasses import dataclass


class MissingError(Exception):
    """A section has nothing to show. Its message is the sentence that stands in its place."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawing.

    Attributes:
        name: Of its file, without the ending.
        png: The file.
        alt: What it shows, for who does not see it.
        caption: How it is read, a sentence or more.
        width_px, height_px: As it is shown where there is room; the file has twice as many pixels.
    """

    name: str
    png: bytes
    alt: str
    caption: str
    width_px: int
    height_px: int


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of texts.

    Attributes:
        numeric: Columns whose cells are numbers.
        wrapped: Columns whose cells are sentences.
        emphasised: Rows that stand out.
        row_heads: Whether the first column names the rows.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    wrapped: frozenset[int] = frozenset()
    emphasised: frozenset[int] = frozenset()
    row_heads: bool = False


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Text that a machine reads: commands and files.

    Attributes:
        folded: Whether it is shown only when it is asked for.
    """

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a section says: sentences, then pictures, tables and listings."""

    text: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    listings: Sequence[Listing] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        absent: Why there is nothing to show; empty where there is.
    """

    anchor: str
    title: str
    content: Content = Content()
    absent: str = ""
