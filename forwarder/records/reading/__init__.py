"""From input of any accepted form to numbered lines: NDJSON, one JSON array, or gzip of either.

Nothing is held of the input beyond a block of it and one unfinished line, whatever its size.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from forwarder.errors import InputError
from forwarder.records.reading.array import CHUNK_LINES, SPARE_BYTES, Lines, split_array, too_long
from forwarder.records.reading.gunzip import MAGIC, unzip
from forwarder.records.reading.source import BrokenInputError, Source, StoppedError

__all__ = ["BrokenInputError", "Chunk", "Source", "StoppedError", "read_chunks"]

_COMPRESSED = {
    b"PK\x03\x04": "unzip -p",
    b"BZh": "bzcat",
    b"\xfd7zX": "xzcat",
    b"\x28\xb5\x2f\xfd": "zstdcat",
}
# So much white space may come before the [ of an array.
_LEAD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines of NDJSON, or elements of an array, that follow each other.

    Attributes:
        first_line: The number of the first one, from 1.
        lines: Each as it came, at most `CHUNK_LINES`; blank ones are b"" or white space.
        refused: (number, reason) of those that can't be handed out; they stand in *lines* as b"".
    """

    first_line: int
    lines: list[bytes]
    refused: list[tuple[int, str]]


def read_chunks(source: Source, max_bytes: int) -> Iterator[Chunk]:
    """Read *source* to its end; on a live stream each pause hands out what is complete by then.

    A record of more than *max_bytes* is refused.

    Raises:
        InputError: if it can't be read, or holds no UTF-8 text.
        BrokenInputError: after the last good line, where it can't be followed any further.
        StoppedError: after the last complete line, when *source* was asked to stop.
    """
    number = 1
    for lines, refused in _split(source, max_bytes):
        yield Chunk(number, lines, [(number + index, reason) for index, reason in refused])
        number += len(lines)


def _split(source: Source, max_bytes: int) -> Iterator[Lines]:
    blocks = iter(source.read_block, b"")
    head = _take(blocks, b"", 4)
    while head.startswith(MAGIC):
        blocks = unzip(chain((head,), blocks), source.raise_if_stopped)
        head = _take(blocks, b"", 4)
    _check_encoding(head)
    text = head.removeprefix(codecs.BOM_UTF8)
    offset = len(head) - len(text)
    while len(text) < _LEAD_BYTES and not text.strip() and (more := next(blocks, b"")):
        text += more
    whole = chain((text,), blocks)
    if text.lstrip().startswith(b"["):
        return split_array(whole, max_bytes, offset)
    return _split_lines(whole, max_bytes)


def _take(blocks: Iterator[bytes], text: bytes, size: int) -> bytes:
    """Read on until *text* has *size* bytes or the input ends."""
    while len(text) < size and (more := next(blocks, b"")):
        text += more
    return text


def _check_encoding(head: bytes) -> None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head[:4]:
        raise InputError(
            "the text is not UTF-8 but looks like UTF-16 or UTF-32",
            "Convert it: iconv -f UTF-16 -t UTF-8 FILE | forwarder enqueue",
        )
    for magic, tool in _COMPRESSED.items():
        if head.startswith(magic):
            raise InputError(
                "it is compressed, and not with gzip", f"Unpack it: {tool} FILE | forwarder enqueue"
            )


def _split_lines(blocks: Iterator[bytes], max_bytes: int) -> Iterator[Lines]:
    why = too_long(max_bytes)
    pending, is_too_long = b"", False
    for block in blocks:
        refused: list[tuple[int, str]] = []
        if is_too_long:
            # Dropped up to its end, it leaves an empty line behind.
            cut = block.find(b"\n")
            if cut < 0:
                continue
            block, refused, is_too_long = block[cut:], [(0, why)], False
        text = pending + block if pending else block
        if b"\r" in text:  # sixty times as fast as looking for both
            text = text.replace(b"\r\n", b"\n")
        full = True
        while full:
            lines = text.split(b"\n", CHUNK_LINES)
            text = lines.pop()
            if lines:
                yield lines, refused
            full, refused = len(lines) == CHUNK_LINES, []
        pending, is_too_long = (b"", True) if len(text) > max_bytes + SPARE_BYTES else (text, False)
    if is_too_long:
        yield [b""], [(0, why)]
    elif pending:
        yield [pending], []
