"""JSON values of an array, or one after the other, as they come; memory never holds all of them."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator

import msgspec

from forwarder.records.reading.source import BrokenInputError

CHUNK_LINES = 10_000
# A line or element may be this much longer than the longest record, because of white space.
SPARE_BYTES = 64 << 10

# Input in numbered pieces: the pieces, and (index, reason) of each refused one, which is b"" there.
Lines = tuple[list[bytes], list[tuple[int, str]]]

_QUOTE = ord('"')
_CLOSERS = {ord("["): ord("]"), ord("{"): ord("}")}
_gap = re.compile(rb"[ \t\r\n]*+").match
_scalar = re.compile(rb"[^ \t\r\n,\]]*+").match
_string_body = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL).match
_to_bracket = re.compile(rb'[^"{}\[\]]*+(?:"(?:[^"\\]++|\\.)*+"[^"{}\[\]]*+)*+', re.DOTALL).match
_between = re.compile(rb"\}\s*,\s*\{").match
_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode

_list_inside = re.compile(rb'\s*(?:\{\s*"(\w+)"\s*:\s*)?\[').match
# How much is examined of what is too long.
BEGIN_BYTES = 200

_FIRST, _VALUE, _COMMA, _END = range(4)
# Many elements at once are searched for in this much of the input, while at least this much is there.
_WINDOW_BYTES = 1 << 20
_WINDOW_MIN_BYTES = 32 << 10
_TRIES = 3


def too_long(max_bytes: int, begin: bytes) -> str:
    """Why a line or element that begins like *begin* is refused unread."""
    reason = f"longer than {max_bytes} bytes, Mixpanel's limit"
    if found := _list_inside(begin):
        path = f".{found[1].decode()}[]" if found[1] else ".[]"
        reason += f". It looks like a list of events: make it one event per line with jq -c '{path}'"
    return reason


def split_values(
    blocks: Iterable[bytes], max_bytes: int, offset: int = 0, is_array: bool = True
) -> Generator[Lines, None, tuple[bytes, int]]:
    """Split JSON values; mistakes inside a value are left to its reader.

    Args:
        blocks: The text; white space before it is allowed.
        max_bytes: The size limit of a value, white space aside.
        offset: How many bytes of the input came before.
        is_array: They are the elements of an array; else they follow each other, with or without commas.

    Yields:
        up to `CHUNK_LINES` values at a time, as soon as they are complete.

    Returns:
        the part of the last block after the array, and how many bytes of the input came before that.

    Raises:
        BrokenInputError: after the last good value; the rest can't be read.
    """
    values = Values(max_bytes, offset, is_array)
    for block in blocks:
        yield from values.feed(block)
        if values.has_ended:
            break
    return values.finish()


class Values:
    """The state of `split_values`; takes its arguments."""

    def __init__(self, max_bytes: int, offset: int = 0, is_array: bool = True) -> None:
        self._is_array = is_array
        self._max_bytes = max_bytes
        self._data = b""
        self._offset = offset  # of _data in the input
        self._at = 0  # read so far, in _data
        self._start = -1  # of the element being read, in _data; -1 between elements
        self._expect = -1 if is_array else _FIRST
        self._closers = bytearray()
        self._in_string = False
        self._too_long = False
        self._begin = b""  # of an element that is too long
        self._separator = b""

    @property
    def has_ended(self) -> bool:
        """Whether the array has."""
        return self._expect == _END

    @property
    def is_between(self) -> bool:
        """Whether no value has begun and not ended."""
        return self._start < 0

    @property
    def in_string(self) -> bool:
        """Whether a string has begun and not ended."""
        return self._in_string

    def feed(self, block: bytes) -> Iterator[Lines]:
        """Read the next *block*; yields and raises as `split_values` does."""
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
                    # If the quick search fails, it is not repeated in this block: it would fail again.
                    fast = not self._separator
                    if self._too_long:
                        refused.append((len(lines), too_long(self._max_bytes, self._begin)))
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

    def finish(self) -> tuple[bytes, int]:
        """Check that the last value has ended, and the array; returns and raises as `split_values` does."""
        if self._start >= 0:
            began = self._offset + self._start + 1
            what = (
                "the array ends in the middle of its last element"
                if self._is_array
                else "it ends in the middle of a value"
            )
            raise BrokenInputError(f"{what}, which begins at byte {began}")
        if self._is_array and not self.has_ended:
            self._break("the array ends without a ]")
        return self._data[self._at :], self._offset + self._at

    def _append(self, block: bytes) -> None:
        keep = self._at if self._start < 0 else self._start
        if self._start >= 0 and len(self._data) - keep > self._max_bytes + SPARE_BYTES:
            if not self._too_long:
                self._begin = self._data[keep : keep + BEGIN_BYTES]
            self._too_long, keep = True, self._at
            if len(self._closers) > self._max_bytes:
                self._break("nested too deep to be read")
        self._data = self._data[keep:] + block
        self._offset += keep
        self._at -= keep
        if self._start >= 0:
            self._start = 0

    def _find_element(self) -> bool:
        """Go to the start of the next element; False: it hasn't come yet, or the array has ended."""
        data = self._data
        while self._expect != _END:
            at = self._at = _gap(data, self._at).end()  # type: ignore[union-attr]
            if at == len(data):
                return False
            mark = data[at : at + 1]
            if self._expect < 0:
                self._expect = _FIRST  # the [ that brought us here
            elif mark == b"]" and self._is_array:
                self._expect = _END
            elif self._expect == _COMMA and (self._is_array or mark == b","):
                if mark != b",":
                    self._break("not JSON: a comma or ] is missing")
                self._expect = _VALUE
            elif mark in b",]}:":
                self._break("not JSON: an element is missing")
            else:
                self._start = at
                return True
            self._at += 1
        return False

    def _read_many(self) -> list[bytes]:
        """Read elements up to a place that looks like the gap between two; none if it is not one."""
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
        """Where the current element ends; -1: that hasn't come yet."""
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
            self._break(f"not JSON: {chr(mark)} closes what was not opened")

    def _end_element(self, end: int) -> None:
        if not self._separator and (gap := _between(self._data, end - 1)):
            self._separator = gap.group()
        self._at, self._start, self._expect = end, -1, _COMMA
        self._in_string = self._too_long = False
        self._closers.clear()

    def _break(self, why: str) -> None:
        raise BrokenInputError(f"{why} at byte {self._offset + self._at + 1}")
