"""Numbers, durations and columns, laid out for people: plain text that is as good in a pipe."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

import click

from forwarder.errors import printable

PAGE = 250
# A longer cell is shown whole, but does not make its column any wider.
WIDEST = 40

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title and whether its cells stand to the right."""

    title: str
    right: bool = False


def counted(count: int, noun: str) -> str:
    """``1 event``, ``1,234 events``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: float) -> str:
    """``3 s``, ``12 min``, ``5 h 12 min``, ``3 d 4 h``."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def since(at: float, now: float) -> float:
    """The seconds from *at* to *now*; 0 if a clock was set back, or if *at* is no time at all."""
    # What a stranger wrote into a row's timestamp may be any value.
    return max(0.0, now - at) if isinstance(at, (int, float)) and abs(at) < 1e12 else 0.0


def instant(at: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC; None for what is no time."""
    try:
        moment = datetime.fromtimestamp(at, UTC) if at is not None else None
    except (ValueError, OverflowError, OSError, TypeError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None


def styled(text: str, **style: Any) -> str:
    """*text* coloured, as ``click.style``; `click.echo` takes the colour away off a terminal."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def batched(values: Iterable[T], count: int = PAGE) -> Iterator[list[T]]:
    """*values* in lists of *count*."""
    iterator = iter(values)
    while page := list(islice(iterator, count)):
        yield page


def print_lines(lines: Iterable[str]) -> None:
    """Print many lines, some at a time."""
    for page in batched(lines):
        click.echo("\n".join(page))


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> bool:
    """Print *rows* under their titles; on a terminal a line is cut to its width. False: there was no row.

    Rows are read and printed some at a time, so there may be any number of them.
    """
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    widths = [0] * len(columns)
    titles: list[list[str]] = [[column.title for column in columns]]
    for page in batched(rows):
        cells = titles + [[c if c.isprintable() else printable(c) for c in row] for row in page]
        for row in cells:
            widths = [max(old, min(_width(cell), WIDEST)) for old, cell in zip(widths, row, strict=True)]
        click.echo("\n".join(_cut(_line(columns, widths, row), room) for row in cells))
        titles = []
    return not titles


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> str:
    parts = []
    for column, width, cell in zip(columns, widths, row, strict=True):
        gap = " " * (width - _width(cell))
        parts.append(gap + cell if column.right else cell + gap)
    return "  ".join(parts).rstrip()


def _cut(line: str, room: int | None) -> str:
    if room is None or _width(line) <= room:
        return line
    if line.isascii():
        return line[: room - 1] + "…"
    from rich.cells import set_cell_size

    return set_cell_size(line, room - 1) + "…"


def _width(text: str) -> int:
    """How many columns *text* takes; a Chinese character takes two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
