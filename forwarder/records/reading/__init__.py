"""From input of any accepted form to numbered lines: NDJSON, JSON arrays or values, or gzip of these.

Memory holds one block of the input and one unfinished line, whatever the input's size.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain

from forwarder.errors import InputError
from forwarder.records.reading.array import (
    BEGIN_BYTES,
    CHUNK_LINES,
    SPARE_BYTES,
    Lines,
    split_values,
    too_long,
)
from forwarder.records.reading.form import ARRAY, LINES, form_of
from forwarder.records.reading.gunzip import MAGIC, unzip
from forwarder.records.reading.pieces import take_apart
from forwarder.records.reading.source import BrokenInputError, Source, StoppedError

__all__ = ["BrokenInputError", "Chunk", "Source", "StoppedError", "read_chunks", "take_apart"]

_COMPRESSED = {
    b"PK\x03\x04": "unzip -p",
    b"BZh": "bzcat",
    b"\xfd7zX": "xzcat",
    b"\x28\xb5\x2f\xfd": "zstdcat",
}
# Where ASCII in UTF-16 and UTF-32 has NULs in its first four bytes; a crash leaves them elsewhere.
_WIDE = [[0, 2], [1, 3], [0, 1, 2], [1, 2, 3]]
# What may come before the [ of an array, and how much: white space, NULs, a byte order mark.
_LEAD_BYTES = 64 << 10
_LEAD = b" \t\r\n\0" + codecs.BOM_UTF8
# The size limit of an array that shares a line with others.
_MOST_ARRAY_BYTES = 16 << 20
_nuls = re.compile(b"\0+").sub


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive lines of NDJSON, or consecutive JSON values over several lines.

    Attributes:
        first_line: The number of the first line, from 1.
        lines: The lines as they came, at most `CHUNK_LINES`; blank ones are b"" or white space.
        refused: (number, reason) of the lines that are refused unread; in *lines* they are b"".
        is_cut: The input ended without a line feed after it. Then it is one line.
    """

    first_line: int
    lines: list[bytes]
    refused: list[tuple[int, str]]
    is_cut: bool = False


def read_chunks(source: Source, max_bytes: int) -> Iterator[Chunk]:
    """Read *source* to its end. When a live stream pauses, all complete lines are yielded.

    A record of more than *max_bytes* is refused.

    Raises:
        InputError: it can't be read, or is not UTF-8 text.
        BrokenInputError: after the last good line; the rest can't be read.
        StoppedError: after the last complete line; *source* was asked to stop.
    """
    number, rest = 1, b""

    def ended() -> Iterator[Lines]:
        nonlocal rest
        rest = yield from _split(source, max_bytes)

    for lines, refused in ended():
        yield Chunk(number, lines, [(number + index, reason) for index, reason in refused])
        number += len(lines)
    if rest:
        yield Chunk(number, [rest], [], is_cut=True)


def _split(source: Source, max_bytes: int) -> Generator[Lines, None, bytes]:
    """All lines that have ended; returns the rest of the input."""
    blocks = iter(source.read_block, b"")
    head = _take(blocks, b"", 4)
    while head.startswith(MAGIC):
        blocks = unzip(chain((head,), blocks), source.raise_if_stopped)
        head = _take(blocks, b"", 4)
    _check_encoding(head)
    while len(head) < _LEAD_BYTES and not head.strip(_LEAD) and (more := next(blocks, b"")):
        head += more
    offset = 0
    while (form := form_of(head)) != LINES:
        text = head.lstrip(_LEAD)
        offset += len(head) - len(text)
        rest = yield from split_values(chain((text,), blocks), max_bytes, offset, is_array=form == ARRAY)
        # What follows an array may have another form.
        head, offset = rest
        while not (text := head.lstrip(_LEAD)):
            offset += len(head)
            head = next(blocks, b"")
            if not head:
                return b""
        head, offset = text, offset + len(head) - len(text)
    return (yield from _split_lines(chain((head.removeprefix(codecs.BOM_UTF8),), blocks), max_bytes))


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
    for magic, tool in _COMPRESSED.items():
        if head.startswith(magic):
            raise InputError(
                "it is compressed, but not with gzip", f"Unpack it: {tool} FILE | forwarder enqueue"
            )


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
