"""Numbers, durations and columns, laid out for people: plain text that is as good in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import click

from forwarder.text import printable

PAGE = 250
# A longer cell is shown whole, but does not make its column any wider.
WIDEST = 40
# On a terminal, names are cut to this, where the last column has less than that part of the line.
NARROWEST, LAST_PART = 12, 0.4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title, whether its cells stand to the right, and may be cut for the sake of the last one."""

    title: str
    right: bool = False
    shrinks: bool = False


def styled(text: str, **style: Any) -> str:
    """*text* coloured, as ``click.style``; `click.echo` takes the colour away off a terminal."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def batched(values: Iterable[T]) -> Iterator[list[T]]:
    """*values* in lists of `PAGE`."""
    iterator = iter(values)
    while page := list(islice(iterator, PAGE)):
        yield page


def print_lines(lines: Iterable[str]) -> None:
    """Print many lines, some at a time."""
    for page in batched(lines):
        click.echo("\n".join(page))


def terminal_width(err: bool = False) -> int | None:
    """The width in columns of the terminal that standard output, or *err*, writes to; None: it is none."""
    stream = sys.stderr if err else sys.stdout
    if stream is None or not stream.isatty():
        return None
    # Of this stream: the other may be a pipe.
    with suppress(OSError, ValueError):
        return int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(stream.fileno()).columns or None
    return None


def is_utf8() -> bool:
    """Whether standard output takes any character. Python writes UTF-8 in the locale C, too, which it is not
    asked to."""
    import locale

    return {sys.stdout.encoding.lower(), locale.getencoding().lower()} == {"utf-8"}


def ascii_only(text: str) -> str:
    """*text* as ASCII; what has no sign there is a question mark."""
    return text.replace("…", "~").encode("ascii", "replace").decode()


def say(text: str, err: bool = False) -> None:
    """Print what a person reads; on a terminal its lines break between words."""
    width = terminal_width(err)
    click.echo("\n".join(part for line in text.split("\n") for part in wrapped(line, width)), err=err)


def wrapped(text: str, width: int | None, indent: str = "") -> list[str]:
    """*text* in lines of *width* columns at most, broken between words, the later ones behind *indent*."""
    first, *words = text.split(" ")
    lines = [first]
    for word in words:
        if width is None or _width(lines[-1]) + 1 + _width(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(indent + word)
    return [line.rstrip() for line in lines]


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> bool:
    """Print *rows* under their titles. False: there was no row.

    On a terminal a line is cut to its width, names first; and how all cells of the last column begin, where
    they do not fit, is said once above. Rows are read and printed some at a time, so there may be any number.
    """
    room = terminal_width()
    widths = [0] * len(columns)
    titles: list[list[str]] = [[column.title for column in columns]]
    start = ""
    for page in batched(rows):
        cells = [[c if c.isprintable() else printable(c) for c in row] for row in page]
        for row in titles + cells:
            widths = [max(old, min(_width(cell), WIDEST)) for old, cell in zip(widths, row, strict=True)]
        if room is not None:
            widths = _shrunk(columns, widths, room)
            last_room = room - sum(widths[:-1]) - 2 * len(widths[:-1])
            if titles and (start := _common_start([row[-1] for row in cells], last_room)):
                click.echo("\n".join(wrapped(f"{columns[-1].title} begins with: {start}", room)))
            for row in cells:
                row[:-1] = [cut(cell, width) for cell, width in zip(row, widths[:-1], strict=False)]
                if start and row[-1].startswith(start):
                    row[-1] = f"…{row[-1][len(start) :]}"
        lines = (_line(columns, widths, row) for row in titles + cells)
        click.echo("\n".join(line if room is None else cut(line, room) for line in lines))
        titles = []
    return not titles


def _shrunk(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """The *widths*, less where the last column would have too little of the *room*."""
    found = list(widths)
    least = min(found[-1], int(room * LAST_PART))
    for index, column in enumerate(columns[:-1]):
        over = sum(found[:-1]) + 2 * len(found[:-1]) + least - room
        if column.shrinks and over > 0:
            found[index] = min(found[index], max(found[index] - over, NARROWEST))
    return found


def _common_start(cells: Sequence[str], room: int) -> str:
    """The words that all of several *cells* begin with, where some cell does not fit in the *room*."""
    if len(cells) < 2 or all(_width(cell) <= room for cell in cells):
        return ""
    start = os.path.commonprefix(cells)  # noqa: RUF071 - of characters, which is meant
    if any(cell != start for cell in cells):
        start = start[: start.rfind(" ") + 1]
    return start if len(start) > room // 3 else ""


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> str:
    parts = []
    for column, width, cell in zip(columns, widths, row, strict=True):
        gap = " " * (width - _width(cell))
        parts.append(gap + cell if column.right else cell + gap)
    return "  ".join(parts).rstrip()


def padded(text: str, width: int) -> str:
    """*text*, cut or filled with blanks to *width* columns."""
    shown = cut(text, width)
    return shown + " " * (width - _width(shown))


def cut(text: str, room: int) -> str:
    """*text*, cut to *room* columns where it takes more, with an ellipsis at its end."""
    if _width(text) <= room:
        return text
    if text.isascii():
        return text[: room - 1] + "…"
    from rich.cells import set_cell_size

    return set_cell_size(text, room - 1) + "…"


def _width(text: str) -> int:
    """How many columns *text* takes; a Chinese character takes two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
