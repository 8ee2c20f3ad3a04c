"""Waiting events for a person: listed, held back from delivery, released, deleted."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

from forwarder.records import EVENTS
from forwarder.spool.sqlite import schema
from forwarder.spool.sqlite.claiming import Origin
from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.reader import Reader, as_bytes, matching
from forwarder.spool.sqlite.room import freeing
from forwarder.spool.sqlite.schema import HELD_TABLE, READY, TABLE
from forwarder.spool.values import DUE, HELD, Selection, Waiting

_START_BYTES = 4096
_ROWS = {HELD_TABLE: schema.HELD_ROW, TABLE: schema.ROW}


class WaitingEvents(Reader):
    """Reading waiting events, for `view.View`."""

    def peek(self, count: int, after_id: int = 0, where: Selection = DUE) -> list[Waiting]:
        """A row that is too large for an event has only its first bytes."""
        found: list[Waiting] = []
        condition, values = _condition(where)
        for table in _tables(where):
            # A row that is too large is in no selection by its content.
            query = (
                f"SELECT _id, iif(length(data) > {EVENTS.max_bytes}, substr(data, 1, {_START_BYTES}), data),"
                f" put_at, status, length(data) FROM ({_ROWS[table]})"
                f" WHERE _id BETWEEN ? AND ? AND {condition} ORDER BY _id LIMIT ?"
            )
            found += self._read(query, table, where, values, after_id, count)
        return sorted(found, key=lambda row: row.id)[:count]

    def _read(
        self, query: str, table: str, where: Selection, values: list[object], after_id: int, count: int
    ) -> Iterator[Waiting]:
        for chunk in self._chunks(table, "_id", where, after_id):
            rows = self._rows(query, (*chunk, *values, count))
            count -= len(rows)
            for row_id, start, at, status, size in rows:
                data = as_bytes(start)
                yield Waiting(row_id, data, at or 0.0, status, len(data) if size is None else size)
            if not count:
                return

    def newest_waiting(self) -> int:
        return max(int(self._rows(f"SELECT coalesce(max(_id), 0) FROM {table}")[0][0]) for table in _ROWS)

    def count_waiting(self, where: Selection) -> int:
        condition, values = _condition(where)
        return sum(
            self._rows(
                f"SELECT count(*) FROM ({_ROWS[table]}) WHERE _id BETWEEN ? AND ? AND {condition}",
                (*chunk, *values),
            )[0][0]
            for table in _tables(where)
            for chunk in self._chunks(table, "_id", where)
        )


def _tables(where: Selection) -> tuple[str, ...]:
    return (HELD_TABLE, TABLE) if where.held is None else (HELD_TABLE if where.held else TABLE,)


def _condition(where: Selection) -> tuple[str, list[object]]:
    """The selection as SQL over the columns of `schema.ROW`, with its parameters."""
    small = f"length(data) <= {EVENTS.max_bytes} AND"
    parts = {
        "_id IN (SELECT value FROM json_each(?))": None if where.ids is None else str(list(where.ids)),
        f"{small} is_named(data, ?)": where.event,
        f"{small} concerns(data, ?)": where.user,
        "put_at >= ?": where.since,
        "put_at < ?": where.before,
    }
    return matching(parts)


def hold(path: str, ids: Sequence[int]) -> int:
    """See `engine.Spool.hold`. Rows that are not events stay in the queue, for delivery to judge."""
    with closing(Database(path)) as queue, queue.transaction() as connection:
        return hold_rows(connection, ids)


def release(path: str, ids: Sequence[int]) -> int:
    """See `engine.Spool.release`."""
    with closing(Database(path)) as queue, queue.transaction() as connection:
        return _release(connection, ids)


def delete(path: str, ids: Sequence[int]) -> int:
    """See `engine.Spool.delete_waiting`."""
    with closing(Database(path)) as queue:
        return freeing(queue, queue.transaction, partial(_delete, ids=ids))


def hold_rows(connection: sqlite3.Connection, ids: Sequence[int]) -> int:
    """`hold`, inside a write transaction."""
    origin = Origin(*connection.execute("SELECT queue_id, created_at FROM ledger").fetchone())
    count = 0
    for row_id in ids:
        row = connection.execute(f"{schema.ROW} WHERE _id = ?", (row_id,)).fetchone()
        # Completed now, because what completes it comes from its row, which it leaves.
        final = origin.read(*row) if row else None
        if isinstance(final, bytes):
            connection.execute(f"DELETE FROM {TABLE} WHERE _id = ?", (row_id,))
            put_at = origin.created_at if row[2] is None else row[2]
            connection.execute(f"INSERT INTO {HELD_TABLE} VALUES (?, ?, ?, {HELD})", (row_id, final, put_at))
            count += 1
    connection.execute("UPDATE ledger SET held = held + ?", (count,))
    return count


def _release(connection: sqlite3.Connection, ids: Sequence[int]) -> int:
    rows = [(row_id,) for row_id in dict.fromkeys(ids)]
    # A row with a new id, because the daemon has passed the old one, that waits from now on. It is not
    # accepted once more: the baseline moves.
    connection.executemany(
        f"INSERT INTO {TABLE} (data, timestamp, status)"
        f" SELECT data, {time.time()}, {READY} FROM {HELD_TABLE} WHERE _id = ?",
        rows,
    )
    count = connection.executemany(f"DELETE FROM {HELD_TABLE} WHERE _id = ?", rows).rowcount
    connection.execute("UPDATE ledger SET held = held - ?1, baseline = baseline + ?1", (count,))
    return count


def _delete(connection: sqlite3.Connection, ids: Sequence[int]) -> int:
    rows = [(row_id,) for row_id in ids]
    held = connection.executemany(f"DELETE FROM {HELD_TABLE} WHERE _id = ?", rows).rowcount
    count = held + connection.executemany(f"DELETE FROM {TABLE} WHERE _id = ?", rows).rowcount
    connection.execute("UPDATE ledger SET held = held - ?, deleted = deleted + ?", (held, count))
    return count
