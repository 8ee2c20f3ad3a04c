"""What a row of the queue holds: our own records are final; an external producer's are completed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.errors import EventError
from forwarder.spool.statuses import ACKED, READY, SENT
from forwarder.spool.values import Dead

if TYPE_CHECKING:
    from forwarder.records.kind import Kind


@dataclass(frozen=True, slots=True)
class Origin:
    """The queue of the rows: their kind, its identity, and when it was made (seconds since the epoch)."""

    kind: Kind
    queue_id: str
    created_at: float

    def read(
        self, row_id: int, data: bytes | None, put_at: float | None, status: int | None
    ) -> bytes | Dead | None:
        """What a row holds: a record's final bytes, the same each time; or why it is none.

        None: a plain consumer has acked it.
        """
        # A plain consumer's nack marks unchecked rows as ready.
        if status in (READY, SENT) and data is not None and self.kind.is_final(data):
            return data
        if status == ACKED:
            return None
        try:
            put_at = self.created_at if put_at is None else put_at
            return self.kind.complete(data, put_at, self.queue_id, row_id)
        except EventError as error:
            return Dead(row_id, data, str(error))
