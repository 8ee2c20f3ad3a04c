"""Rows as they are found: which are our own, final bytes, and what becomes of a stranger's."""

from __future__ import annotations

from dataclasses import dataclass

from forwarder.errors import EventError
from forwarder.records import EVENTS
from forwarder.spool.sqlite.status import ACKED, READY
from forwarder.spool.values import Dead


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
        if status == READY and data is not None and EVENTS.is_final(data):
            return data
        if status == ACKED:
            return None
        try:
            put_at = self.created_at if put_at is None else put_at
            return EVENTS.complete(data, put_at, self.queue_id, row_id)
        except EventError as error:
            return Dead(row_id, data, str(error))
