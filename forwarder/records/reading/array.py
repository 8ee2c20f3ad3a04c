"""A JSON array, taken apart into its elements as it comes, without ever holding the whole of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from forwarder.records.reading.source import BrokenInputError

CHUNK_LINES = 10_000
# So much longer than the longest record may a line or element be, for the sake of white space.
SPARE_BYTES = 64 << 10

# Input in numbered pieces: the pieces, and (index, reason) where one is refused and stands there as b"".
Lines = tuple[list[bytes], list[tuple[int, str]]]

_QUOTE = ord('"')
_CLOSERS = {ord("["): ord("]"), ord("{"): ord("}")}
_gap = re.compile(rb"[ \t\r\n]*+").match
_scalar = re.compile(rb"[^ \t\r\n,\]]*+").match
_string_body = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL).match
_to_bracket = re.compile(rb'[^"{}\[\]]*+(?:"(?:[^"\\]++|\\.)*+"[^"{}\[\]]*+)*+', re.DOTALL).match
_between = re.compile(rb"\}\s*,\s*\{").match
_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode

_FIRST, _VALUE, _COMMA, _END = range(4)
# Many elements at once are looked for in this much of the input, while at least so much is there.
_WINDOW_BYTES = 1 << 20
_WINDOW_MIN_BYTES = 32 << 10
_TRIES = 3


def too_long(max_bytes: int) -> str:
    """The reason why a line or element is refused unread."""
    return f"longer than {max_bytes} bytes, the most that Mixpanel takes"


def split_array(blocks: Iterable[bytes], max_bytes: int, offset: int = 0) -> Iterator[Lines]:
    """Take a JSON array apart; what is wrong inside an element is left to its reader to find.

    Args:
        blocks: The array's text, white space before it allowed.
        max_bytes: The most that an element may have, white space aside.
        offset: How many bytes of the input came before it.

    Yields:
        up to `CHUNK_LINES` elements at a time, all that are complete so far.

    Raises:
        BrokenInputError: after the last good element, where the array can't be followed any further.
    """
    array = _Array(max_bytes, offset)
    for block in blocks:
        yield from array.feed(block)
    array.finish()


class _Array:
    def __init__(self, max_bytes: int, offset: int) -> None:
        self._max_bytes = max_bytes
        self._data = b""
        self._offset = offset  # of _data in the input
        self._at = 0  # read so far, in _data
        self._start = -1  # of the element being read, in _data; -1 between elements
        self._expect = -1
        self._closers = bytearray()
        self._in_string = False
        self._too_long = False
        self._separator = b""

    def feed(self, block: bytes) -> Iterator[Lines]:
        self._append(block)
        fast = True
        lines: list[bytes] = []
        refused: list[tuple[int, str]] = []
        try:
            while self._start >= 0 or self._find_element():
                if fast and self._separator and (many := self._read_many()):
                    lines += many
                elif (end := self._find_end()) < 0:
                    break
                else:
                    # Where the quick look fails it is not repeated within the block: it would fail again.
                    fast = not self._separator
                    if self._too_long:
                        refused.append((len(lines), too_long(self._max_bytes)))
                    lines.append(b"" if self._too_long else self._data[self._start : end])
                    self._end_element(end)
                while len(lines) >= CHUNK_LINES:
                    yield lines[:CHUNK_LINES], [found for found in refused if found[0] < CHUNK_LINES]
                    refused = [(index - CHUNK_LINES, why) for index, why in refused if index >= CHUNK_LINES]
                    del lines[:CHUNK_LINES]
        except BrokenInputError:
            if lines:
                yield lines, refused
            raise
        if lines:
            yield lines, refused

    def finish(self) -> None:
        """Check that the array has ended."""
        if self._start >= 0:
            began = self._offset + self._start + 1
            raise BrokenInputError(f"the array ends within its last element, which begins at byte {began}")
        if self._expect != _END:
            self._break("the array ends without a ]")

    def _append(self, block: bytes) -> None:
        keep = self._at if self._start < 0 else self._start
        if self._start >= 0 and len(self._data) - keep > self._max_bytes + SPARE_BYTES:
            self._too_long, keep = True, self._at
            if len(self._closers) > self._max_bytes:
                self._break("nested too deep to follow")
        self._data = self._data[keep:] + block
        self._offset += keep
        self._at -= keep
        if self._start >= 0:
            self._start = 0

    def _find_element(self) -> bool:
        """Go to where the next element starts; False if it hasn't come yet."""
        data = self._data
        while True:
            at = self._at = _gap(data, self._at).end()  # type: ignore[union-attr]
            if at == len(data):
                return False
            mark = data[at : at + 1]
            if self._expect < 0:
                self._expect = _FIRST  # the [ that brought us here
            elif self._expect == _END:
                self._break("text after the end of the array")
            elif mark == b"]" and self._expect != _VALUE:
                self._expect = _END
            elif self._expect == _COMMA:
                if mark != b",":
                    self._break("not JSON: a comma or ] is missing")
                self._expect = _VALUE
            elif mark in b",]}:":
                self._break("not JSON: an element is missing")
            else:
                self._start = at
                return True
            self._at += 1

    def _read_many(self) -> list[bytes]:
        """Read elements up to a place that looks like the gap between two; none if it only looked so."""
        data, start = self._data, self._start
        if self._too_long or len(data) - start < _WINDOW_MIN_BYTES:
            return []
        cut = start + _WINDOW_BYTES
        for _ in range(_TRIES):
            cut = data.rfind(self._separator, start, cut)
            if cut < 0:
                break
            try:
                # Valid with a ] put after it: so the gap is no nested one, and not in a string.
                found = _raw_list(b"".join((b"[", memoryview(data)[start : cut + 1], b"]")))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            self._end_element(cut + 1)
            return list(map(bytes, found))
        return []

    def _find_end(self) -> int:
        """Where the element that has begun ends; -1 if that hasn't come yet."""
        data, at, closers = self._data, self._at, self._closers
        while at < len(data):
            if self._in_string:
                at = _string_body(data, at).end()  # type: ignore[union-attr]
                if data[at : at + 1] != b'"':
                    break  # the rest of the string, or of an escape, is still to come
                at += 1
                self._in_string = False
            else:
                if closers or data[at] in b'"{[':
                    at = _to_bracket(data, at).end() if closers else at  # type: ignore[union-attr]
                    if at == len(data):
                        break
                    self._bracket(data[at], at)
                    at += 1
                else:
                    at = _scalar(data, at).end()  # type: ignore[union-attr]
                    if at == len(data):
                        break
            if not closers and not self._in_string:
                self._at = at
                return at
        self._at = at
        return -1

    def _bracket(self, mark: int, at: int) -> None:
        if mark == _QUOTE:
            self._in_string = True
        elif mark in _CLOSERS:
            self._closers.append(_CLOSERS[mark])
        elif self._closers.pop() != mark:
            self._at = at
            self._break(f"not JSON: {chr(mark)} closes what it did not open")

    def _end_element(self, end: int) -> None:
        if not self._separator and (gap := _between(self._data, end - 1)):
            self._separator = gap.group()
        self._at, self._start, self._expect = end, -1, _COMMA
        self._in_string = self._too_long = False
        self._closers.clear()

    def _break(self, why: str) -> None:
        raise BrokenInputError(f"{why} at byte {self._offset + self._at + 1}")
