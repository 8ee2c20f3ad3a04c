"""Records as SQLite writes them, read without SQLite (sqlite.org/fileformat2.html, part 2)."""

from __future__ import annotations

import struct

Value = None | int | float | bytes | str

_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)


def varint(data: bytes, offset: int) -> tuple[int, int]:
    """An integer of one to nine bytes, and where it ends."""
    value = 0
    for at in range(offset, offset + 8):
        byte = data[at]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + 1
    value = value << 8 | data[offset + 8]
    return value - (1 << 64) if value >= 1 << 63 else value, offset + 9


def record(data: bytes) -> tuple[Value, ...]:
    """The columns of a record.

    Raises:
        ValueError, IndexError, struct.error: it is none.
    """
    head, at = varint(data, 0)
    offset, columns = head, []
    if not 0 < head <= len(data):
        raise ValueError("no header")
    while at < head:
        kind, at = varint(data, at)
        value, offset = _value(kind, data, offset)
        columns.append(value)
    if offset != len(data):
        raise ValueError("the length does not fit")
    return tuple(columns)


def _value(kind: int, data: bytes, offset: int) -> tuple[Value, int]:
    if kind >= 12:
        end = offset + (kind - 12) // 2
        if end > len(data):
            raise ValueError("longer than the record")
        content = data[offset:end]
        # Text in another encoding than UTF-8 is not what this queue was made with.
        return (content if kind % 2 == 0 else content.decode("utf-8", "surrogateescape")), end
    if kind == 7:
        return struct.unpack_from(">d", data, offset)[0], offset + 8
    if kind in (8, 9):
        return kind - 8, offset
    if kind in (10, 11) or kind < 0:
        raise ValueError("no such type")
    size = _INTEGER_BYTES[kind]
    if offset + size > len(data):
        raise ValueError("longer than the record")
    return (int.from_bytes(data[offset : offset + size], "big", signed=True) if kind else None), offset + size
