"""Reading the next rows for a claim: in one piece where all of them are our own, else one by one; and what
becomes of an external producer's."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass

from forwarder.errors import EventError
from forwarder.records import EVENTS, Lines
from forwarder.spool.sqlite.schema import ACKED, MOST_ID, READY, ROWS, TABLE
from forwarder.spool.values import Claim, Dead

# What has a higher id than `MOST_ID` makes the database a damaged one; all else is delivered before.
# Rows that begin with a brace, and hold as many values as they are, hold one each: none is empty then.
_OWN = f"status = {READY} AND length(data) <= {EVENTS.max_bytes} AND substr(data, 1, 1) = x'7b'"
_PIECE = (
    f"SELECT count(*), min(_id), max(_id), sum({_OWN}), CAST(group_concat(data, x'0a') AS BLOB)"
    f" FROM (SELECT _id, data, status FROM {TABLE} WHERE _id > ? AND _id <= {MOST_ID}"
    " ORDER BY _id LIMIT ?)"
)


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


@dataclass(slots=True)
class Rows(Claim):
    """A claim, and the last row that was looked at for it: what to go on from.

    *is_clear*: what is no event was taken out, for which there may be no room.
    """

    last_id: int = 0
    is_clear: bool = True


class Reader:
    """Reads the rows behind an id: at most so many, and so many bytes with line ends; one alone may be more.

    Together, as one piece of text, they cost a third of what they do one by one.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        # Where the bytes bound a claim and not the count, a piece would be put together in vain.
        self._is_bound_by_bytes = False

    def read(
        self, connection: sqlite3.Connection, after_id: int, max_events: int, max_bytes: int
    ) -> tuple[Rows, list[Dead], list[int]]:
        """The rows behind *after_id*: events, those that are none, and the ids of those that were acked.

        Raises:
            sqlite3.Error: the database can't be read.
        """
        if max_events > 1 and not self._is_bound_by_bytes:
            claim = _in_one_piece(connection, after_id, max_events, max_bytes)
            if claim is not None:
                return claim, [], []
        return self._one_by_one(connection, after_id, max_events, max_bytes)

    def _one_by_one(
        self, connection: sqlite3.Connection, after_id: int, max_events: int, max_bytes: int
    ) -> tuple[Rows, list[Dead], list[int]]:
        ids: list[int] = []
        events: list[bytes] = []
        dead: list[Dead] = []
        acked: list[int] = []
        claim = Rows(ids, events, last_id=after_id)
        read_bytes = 0
        self._is_bound_by_bytes = False
        with closing(connection.execute(ROWS, (after_id, MOST_ID, max_events))) as found:
            for row_id, data, put_at, status in found:
                final = self._origin.read(row_id, data, put_at, status)
                size_bytes = len(final if isinstance(final, bytes) else data or b"") + 1
                if read_bytes + size_bytes > max_bytes and claim.last_id > after_id:
                    self._is_bound_by_bytes = True
                    break
                read_bytes += size_bytes
                claim.last_id = row_id
                if isinstance(final, bytes):
                    ids.append(row_id)
                    events.append(final)
                    claim.size_bytes += size_bytes
                elif final is None:
                    acked.append(row_id)
                else:
                    dead.append(final)
        return claim, dead, acked


def _in_one_piece(
    connection: sqlite3.Connection, after_id: int, max_events: int, max_bytes: int
) -> Rows | None:
    """The rows behind *after_id*, if all are events of our own, without a gap, and within *max_bytes*."""
    # SQLite stops where more would be put together than may be taken.
    before = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max_bytes)
    try:
        row = connection.execute(_PIECE, (after_id, max_events)).fetchone()
    except sqlite3.DataError:
        return None
    finally:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)
    count, first_id, last_id, own, text = row
    if not count:
        return Rows(last_id=after_id)
    if own != count or last_id - first_id + 1 != count:
        return None
    text += b"\n"
    if len(text) > max_bytes or not EVENTS.are_final(text, count):
        return None
    return Rows(range(first_id, last_id + 1), Lines(text, count), len(text), last_id=last_id)
