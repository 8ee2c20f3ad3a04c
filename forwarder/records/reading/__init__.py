"""From input of any accepted form to numbered lines: NDJSON, JSON arrays or values, tables, also compressed.

Memory holds one block of the input and one unfinished line, whatever the input's size.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Generator, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from forwarder.errors import InputError
from forwarder.records.reading.array import (
    BEGIN_BYTES,
    CHUNK_LINES,
    SPARE_BYTES,
    Lines,
    split_values,
    too_long,
)
from forwarder.records.reading.chunk import Chunk
from forwarder.records.reading.decompression import MAGIC_BYTES, codec_of, decompress
from forwarder.records.reading.form import ARRAY, LEAD, LINES, VALUES, begins_json, form_of
from forwarder.records.reading.pieces import take_apart
from forwarder.records.reading.source import BrokenInputError, Source, StoppedError

if TYPE_CHECKING:
    from forwarder.records.event.mapping import EventMapping
    from forwarder.records.reading.parquet import Parquet
    from forwarder.records.reading.table import Table

__all__ = [
    "FORMATS",
    "TABLES",
    "BrokenInputError",
    "Chunk",
    "Source",
    "StoppedError",
    "read_chunks",
    "take_apart",
]

_ZIP = b"PK\x03\x04"
# Where ASCII in UTF-16 and UTF-32 has NULs in its first four bytes; a crash leaves them elsewhere.
_WIDE = [[0, 2], [1, 3], [0, 1, 2], [1, 2, 3]]
# How much of `LEAD` there may be.
_LEAD_BYTES = 64 << 10
# The size limit of an array that shares a line with others.
_MOST_ARRAY_BYTES = 16 << 20
_nuls = re.compile(b"\0+").sub
# What ``--format`` takes.
TABLES = ("csv", "tsv", "parquet")
FORMATS = ("auto", "ndjson", "json", *TABLES)


def read_chunks(
    source: Source,
    max_bytes: int,
    tables: bool = False,
    mapping: EventMapping | None = None,
    name: str = "",
    form: str = "auto",
) -> Iterator[Chunk]:
    """Read *source* to its end. When a live stream pauses, all complete lines are yielded.

    A record of more than *max_bytes* is refused.

    Args:
        tables: Whether tables are read, too.
        mapping: Makes events of flat records and of rows; None: of rows only, by the usual names.
        name: The file's, which may tell the format.
        form: One of `FORMATS`.

    Raises:
        UsageError: the table has not the columns that the *mapping* names.
        InputError: it can't be read, or is not UTF-8 text.
        BrokenInputError: after the last good line; the rest can't be read.
        StoppedError: after the last complete line; *source* was asked to stop.
    """
    blocks, head = _unpacked(source)
    if tables and form not in ("ndjson", "json"):
        head, table = _table(source, blocks, head, mapping is not None, max_bytes, name, form)
        if table is not None:
            from forwarder.records.event.mapping import EventMapping

            yield from table.read(mapping or EventMapping())
            return
    number, rest = 1, b""

    def ended() -> Iterator[Lines]:
        nonlocal rest
        rest = yield from _split(blocks, head, max_bytes, form)

    for lines, refused in ended():
        numbers = range(number, number + len(lines))
        yield Chunk(numbers, lines, [(number + index, reason, None) for index, reason in refused], mapping)
        number += len(lines)
    if rest:
        yield Chunk(range(number, number + 1), [rest], [], mapping, is_cut=True)


def _unpacked(source: Source) -> tuple[Iterator[bytes], bytes]:
    """The blocks of the text, decompressed, and its first bytes, which come before them."""
    blocks = iter(source.read_block, b"")
    head = _take(blocks, b"", MAGIC_BYTES)
    while codec := codec_of(head):
        blocks = decompress(chain((head,), blocks), codec, source.raise_if_stopped)
        head = _take(blocks, b"", MAGIC_BYTES)
    _check_encoding(head)
    return blocks, head


def _table(
    source: Source,
    blocks: Iterator[bytes],
    head: bytes,
    is_mapped: bool,
    max_bytes: int,
    name: str,
    form: str,
) -> tuple[bytes, Table | Parquet | None]:
    """What of the text has been read, and the table that begins with it; None: it is none."""

    def is_json() -> bool:
        return form == "auto" and begins_json(head)

    if is_json():
        return head, None
    # Loaded only when needed.
    from forwarder.records.reading import parquet, table

    if form == "parquet" or (form == "auto" and head.startswith(parquet.MAGIC)):
        return head, parquet.Parquet(source)
    # A line of a live stream must not wait for the one behind it, unless it may be a heading.
    while table.may_be_cut(head) and not is_json() and (more := next(blocks, b"")):
        head += more
    if form == "auto":
        separator = table.separator_of(head, name, is_mapped)
    else:
        separator = table.heading_separator(head, is_tsv=form == "tsv")
    if not separator:
        return head, None
    text = head.removeprefix(codecs.BOM_UTF8)
    return head, table.Table(chain((text,), blocks), separator, max_bytes)


def _split(
    blocks: Iterator[bytes], head: bytes, max_bytes: int, format_: str
) -> Generator[Lines, None, bytes]:
    """All lines that have ended; returns the rest of the input."""
    while len(head) < _LEAD_BYTES and not head.strip(LEAD) and (more := next(blocks, b"")):
        head += more
    offset = 0
    while (form := _json_form(head, format_)) != LINES:
        text = head.lstrip(LEAD)
        offset += len(head) - len(text)
        rest = yield from split_values(chain((text,), blocks), max_bytes, offset, is_array=form == ARRAY)
        # What follows an array may have another form.
        head, offset = rest
        while not (text := head.lstrip(LEAD)):
            offset += len(head)
            head = next(blocks, b"")
            if not head:
                return b""
        head, offset = text, offset + len(head) - len(text)
    return (yield from _split_lines(chain((head.removeprefix(codecs.BOM_UTF8),), blocks), max_bytes))


def _json_form(head: bytes, form: str) -> str:
    if form == "json":
        return ARRAY if head.lstrip(LEAD).startswith(b"[") else VALUES
    return LINES if form == "ndjson" else form_of(head)


def _take(blocks: Iterator[bytes], text: bytes, size: int) -> bytes:
    """Read on until *text* has *size* bytes or the input ends."""
    while len(text) < size and (more := next(blocks, b"")):
        text += more
    return text


def _check_encoding(head: bytes) -> None:
    nuls = [at for at, byte in enumerate(head[:4]) if not byte]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or nuls in _WIDE:
        raise InputError(
            "the text looks like UTF-16 or UTF-32, not UTF-8",
            "Convert it: iconv -f UTF-16 -t UTF-8 FILE | forwarder enqueue",
        )
    if head.startswith(_ZIP):
        raise InputError("it is a zip archive", "Unpack it: unzip -p FILE | forwarder enqueue")


def _split_lines(blocks: Iterator[bytes], max_bytes: int) -> Generator[Lines, None, bytes]:
    pending, why = b"", ""
    for block in blocks:
        refused: list[tuple[int, str]] = []
        if why:
            # Dropped up to its end, it leaves an empty line.
            cut = block.find(b"\n")
            if cut < 0:
                continue
            block, refused, why = block[cut:], [(0, why)], ""
        text = pending + block if pending else block
        if b"\r" in text:  # sixty times faster than searching for both
            text = text.replace(b"\r\n", b"\n")
        if b"\0" in text:
            # What a crash leaves may be longer than any line, with a good line after it.
            text = _nuls(b"\0", text)
        full = True
        while full:
            lines = text.split(b"\n", CHUNK_LINES)
            text = lines.pop()
            if lines:
                yield lines, refused
            full, refused = len(lines) == CHUNK_LINES, []
        most = _MOST_ARRAY_BYTES if text.startswith(b"[") else max_bytes + SPARE_BYTES
        if len(text) > most:
            text, why = b"", too_long(max_bytes, text[:BEGIN_BYTES])
        pending = text
    if why:
        yield [b""], [(0, why)]
    return pending
