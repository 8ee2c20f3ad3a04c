"""Rows as they are found: which are our own, final bytes, and what becomes of a stranger's."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from forwarder.errors import EventError
from forwarder.event import MAX_EVENT_BYTES, complete_foreign
from forwarder.spool.sqlite.status import ACKED, READY
from forwarder.spool.values import Dead


class _Properties(msgspec.Struct, gc=False):
    time: msgspec.Raw
    insert_id: msgspec.Raw = msgspec.field(name="$insert_id")


class _Event(msgspec.Struct, gc=False):
    event: str
    properties: _Properties


_decoder = msgspec.json.Decoder(_Event)


@dataclass(frozen=True, slots=True)
class Origin:
    """The queue that rows stand in: its identity, and when it was made (seconds since the epoch)."""

    queue_id: str
    created_at: float

    def read(
        self, row_id: int, data: bytes | None, put_at: float | None, status: int | None
    ) -> bytes | Dead | None:
        """What a row holds: an event's final bytes, the same each time; or why it is none.

        None: a plain consumer has acked it.
        """
        # A plain consumer's nack says "ready" of rows that nobody has checked.
        if status == READY and data is not None and _is_final(data):
            return data
        if status == ACKED:
            return None
        try:
            put_at = self.created_at if put_at is None else put_at
            return complete_foreign(data, put_at, self.queue_id, row_id)
        except EventError as error:
            return Dead(row_id, data, str(error))


def are_final(text: bytes, count: int) -> bool:
    """Whether *text* is *count* lines, and so many events that are complete."""
    if text.count(b"\n") != count:
        return False
    try:
        return len(_decoder.decode_lines(text)) == count
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _is_final(data: bytes) -> bool:
    if len(data) > MAX_EVENT_BYTES or data[:1] != b"{" or b"\n" in data:
        return False
    # 0.6 us for 400 bytes, no more than a search for the two names; what fails here is read with care.
    try:
        _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
