"""CSV and TSV: rows under a heading, as they come; memory holds one block and one row."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import compress, islice
from json.encoder import encode_basestring as quoted
from typing import TYPE_CHECKING

import msgspec

from forwarder.errors import InputError
from forwarder.records.json_object import is_whole
from forwarder.records.reading.array import CHUNK_LINES
from forwarder.records.reading.chunk import Chunk, Record
from forwarder.records.reading.form import LEAD, begins_json
from forwarder.records.reading.source import BrokenInputError, StoppedError

if TYPE_CHECKING:
    from forwarder.records.event.mapping import EventMapping

_SEPARATORS = ",;\t"
# How much is read at most to find a heading.
HEADING_BYTES = 64 << 10
# 15 digits are exact in a double (IEEE 754).
_MOST_DIGITS = 15
_is_number = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?", re.ASCII).fullmatch
_is_named_table = re.compile(r".*\.(csv|tsv)(\.\w+)?", re.IGNORECASE | re.DOTALL).fullmatch
_is_heading = re.compile(r"[^\W\d][\w $.()#/-]*|\$\w+").fullmatch
_BOOLEANS = {word: word.lower() for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_UNCLOSED = ("unexpected end of data", "field larger than")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is read of a table's columns.

    Attributes:
        indexes: Which columns.
        texts: Those whose cells stay text.
        time: The column that is the events' time; "": none is.
    """

    indexes: Sequence[int]
    texts: frozenset[str]
    time: str


def may_be_cut(head: bytes) -> bool:
    """Whether *head* may be the beginning of a heading, or a heading whose first row is still to come."""
    ends = head.lstrip(LEAD).count(b"\n")
    is_heading = ends == 1 and any(separator.encode() in head for separator in _SEPARATORS)
    return len(head) < HEADING_BYTES and (ends == 0 or is_heading)


def separator_of(head: bytes, name: str, is_mapped: bool) -> str:
    """What separates the cells of a table that begins with *head*; "": it is none.

    Args:
        head: Text; two lines of it, if there are as many.
        name: The file's name. Where it says nothing, a table is what has a column ``event``, and under its
            heading as many cells.
        is_mapped: Options say what the columns are: then the heading may have any names.
    """
    if not head.strip(LEAD) or begins_json(head):
        return ""
    if _is_named_table(name):
        return heading_separator(head, is_tsv="tsv" in name.lower().rsplit(".", 2)[-2:])
    separator = heading_separator(head)
    is_likely = is_mapped or "event" in _first_rows(head, separator)[0]
    return separator if is_likely and is_like_a_table(head) else ""


def is_like_a_table(head: bytes) -> bool:
    """Whether text that begins with *head* has a heading, and under it as many cells."""
    names, cells = _first_rows(head, heading_separator(head))
    is_alike = not cells or (len(cells) == len(names) and cells[0][:1] != "{")
    return len(names) > 1 and all(map(_is_heading, names)) and is_alike


def heading_separator(head: bytes, is_tsv: bool = False) -> str:
    """What separates the cells of the heading with which *head* begins; a comma for a single one."""
    if is_tsv:
        return "\t"
    return max(_SEPARATORS, key=lambda separator: len(_first_rows(head, separator)[0]))


def _first_rows(head: bytes, separator: str) -> list[list[str]]:
    """The cells of the first two rows that are not blank."""
    lines = StringIO(head.decode(errors="replace").lstrip("\ufeff"), newline="")
    try:
        rows = list(islice(filter(None, csv.reader(lines, delimiter=separator)), 2))
    except csv.Error:
        rows = []
    found = [[cell.strip() for cell in row] for row in rows]
    return [*found, [], []][:2]


class Table:
    """A table of text, whose heading is read.

    Args:
        blocks: The text; UTF-8, without a byte order mark.
        max_bytes: The size limit of a line, and of a cell in characters.

    Attributes:
        names: The columns'.

    Raises:
        InputError: the heading is not UTF-8.
    """

    def __init__(self, blocks: Iterable[bytes], separator: str, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._at_end = False  # of a block: what is there is all that has come
        self._is_cut = False
        # Of the process; nothing else in it reads CSV.
        csv.field_size_limit(max_bytes)
        self._reader = csv.reader(self._lines(blocks), delimiter=separator, strict=True)
        # "sep=;" is there for Excel.
        heading = next((cells for _, cells, _ in self._rows() if cells and cells[0][:4] != "sep="), [])
        self.names = [name.strip() for name in heading]
        if not all(map(is_whole, self.names)):
            raise InputError(
                "the heading is not UTF-8", "Convert it: iconv -f LATIN1 -t UTF-8 FILE | forwarder enqueue"
            )

    def read(self, mapping: EventMapping) -> Iterator[Chunk]:
        """The rows, up to `CHUNK_LINES` at a time; when a live stream pauses, all that have come.

        Raises:
            UsageError: as `EventMapping.choose`.
            BrokenInputError: after the last good row; a quote is never closed, or a line is too long.
        """
        chosen = mapping.choose(self.names)
        keep = [index in chosen.indexes for index in range(len(self.names))]
        names = list(compress(self.names, keep))
        tokens: list[Callable[[str], str]] = [quoted if name in chosen.texts else token_of for name in names]
        width, is_all = len(self.names), all(keep)
        numbers: list[int] = []
        records: list[bytes | Record] = []
        refused: list[tuple[int, str, bytes | None]] = []
        try:
            for number, cells, reason in self._rows():
                record: bytes | Record = b""
                if len(cells) == width:
                    chosen_cells = cells if is_all else compress(cells, keep)
                    record = {
                        name: token(cell)
                        for name, token, cell in zip(names, tokens, chosen_cells)  # noqa: B905  # a tenth faster
                        if cell
                    }
                    if not record and not any(cells):
                        record = b""
                elif cells or reason:
                    reason = reason or f"{len(cells)} cells in the row, where the heading has {width}"
                    refused.append((number, reason, _as_json(cells)))
                numbers.append(number)
                records.append(record)
                if self._at_end or len(numbers) == CHUNK_LINES:
                    self._at_end = False
                    yield Chunk(numbers, records, refused, mapping)
                    numbers, records, refused = [], [], []
        except (InputError, StoppedError):
            if numbers:
                yield Chunk(numbers, records, refused, mapping)
            raise
        if numbers:
            yield Chunk(numbers, records, refused, mapping, self._is_cut)

    def _rows(self) -> Iterator[tuple[int, list[str], str]]:
        """(line number, cells, why there are none); a blank line has neither."""
        reader = self._reader
        while True:
            first = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if str(error).startswith(_UNCLOSED):
                    raise BrokenInputError(
                        "a quote that opens in the row which begins here is not closed", line=first
                    ) from None
                last = f"lines {first} to {reader.line_num}" if reader.line_num > first else "the line"
                yield first, [], f"text follows a closing quote in {last}; a quote in a cell is doubled"
            else:
                yield first, cells, ""

    def _lines(self, blocks: Iterable[bytes]) -> Iterator[str]:
        pending, number = b"", 1
        for block in blocks:
            text = pending + block
            end = text.rfind(b"\n") + 1
            pending = text[end:]
            if end:
                lines = _split(text[:end])
                number += len(lines)
                last = lines.pop()
                yield from lines
                self._at_end = True
                yield last
            if len(pending) > self._max_bytes:
                raise BrokenInputError(f"the line is longer than {self._max_bytes} bytes", line=number)
        self._is_cut = bool(pending)
        yield from _split(pending)


def _split(text: bytes) -> list[str]:
    # Bytes that are not UTF-8 stay what they are, and are refused with their row.
    return list(StringIO(text.decode(errors="surrogateescape"), newline=""))


def token_of(cell: str) -> str:
    """A cell as JSON: a number that comes through a double unchanged, true, false, or text."""
    if cell[0] in "-0123456789":
        digits = len(cell) - (cell[0] == "-") - ("." in cell)
        return cell if digits <= _MOST_DIGITS and _is_number(cell) else quoted(cell)
    return _BOOLEANS.get(cell) or quoted(cell)


def _as_json(cells: list[str]) -> bytes | None:
    return msgspec.json.encode(cells) if cells and all(map(is_whole, cells)) else None
