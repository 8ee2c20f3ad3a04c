"""Waiting events for a person: listed, held back from delivery, released, deleted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

from forwarder.spool.sqlite.claiming import origin_of
from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.dead_letters import put_again, shorten
from forwarder.spool.sqlite.reader import Reader, as_bytes, matching
from forwarder.spool.sqlite.room import freeing
from forwarder.spool.sqlite.tables import Tables
from forwarder.spool.statuses import HELD, SENT
from forwarder.spool.values import DUE, Selection, Waiting

_START_BYTES = 4096


class WaitingEvents(Reader):
    """Reading waiting events, for `view.View`."""

    def peek(self, count: int, after_id: int = 0, where: Selection = DUE) -> list[Waiting]:
        """A row that is too large for an event has only its first bytes."""
        found: list[Waiting] = []
        condition, values = self._condition(where)
        for table, rows in self._selected(where):
            # A row that is too large is in no selection by its content.
            query = (
                f"SELECT _id, iif(length(data) > {self.tables.kind.max_bytes},"
                f" substr(data, 1, {_START_BYTES}), data), put_at, status, length(data) FROM ({rows})"
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
        tables = self.tables.held, self.tables.queue
        return max(int(self._rows(f"SELECT coalesce(max(_id), 0) FROM {table}")[0][0]) for table in tables)

    def count_waiting(self, where: Selection) -> int:
        condition, values = self._condition(where)
        return sum(
            self._rows(
                f"SELECT count(*) FROM ({rows}) WHERE _id BETWEEN ? AND ? AND {condition}",
                (*chunk, *values),
            )[0][0]
            for table, rows in self._selected(where)
            for chunk in self._chunks(table, "_id", where)
        )

    def _selected(self, where: Selection) -> Iterator[tuple[str, str]]:
        """The tables that may have such rows, and how their rows are read."""
        if where.held is not False:
            yield self.tables.held, self.tables.held_row
        if where.held is not True:
            yield self.tables.queue, self.tables.row

    def _condition(self, where: Selection) -> tuple[str, list[object]]:
        """The selection as SQL over the columns of `Tables.row`, with its parameters."""
        small = f"length(data) <= {self.tables.kind.max_bytes} AND"
        parts = {
            "_id IN (SELECT value FROM json_each(?))": None if where.ids is None else str(list(where.ids)),
            f"{small} is_named(data, ?)": where.event,
            f"{small} concerns(data, ?)": where.user,
            "put_at >= ?": where.since,
            "put_at < ?": where.before,
            f"{small} has_id(data, ?)": where.insert_id,
        }
        return matching(parts)


def hold(path: str, tables: Tables, ids: Sequence[int]) -> int:
    """See `engine.Spool.hold`. Rows that are not events stay in the queue, for delivery to judge; so do those
    that must not be repeated blindly and may have been sent: released, they would be sent again."""
    with closing(Database(path)) as queue, queue.transaction() as connection:
        return hold_rows(path, connection, tables, ids)


def release(path: str, tables: Tables, ids: Sequence[int]) -> int:
    """See `engine.Spool.release`."""
    with closing(Database(path)) as queue, queue.transaction() as connection:
        return _release(connection, tables, ids)


def delete(path: str, tables: Tables, ids: Sequence[int]) -> int:
    """See `engine.Spool.delete_waiting`."""
    with closing(Database(path)) as queue:
        return freeing(queue, queue.transaction, partial(_delete, tables=tables, ids=ids))


def hold_rows(path: str, connection: sqlite3.Connection, tables: Tables, ids: Sequence[int]) -> int:
    """`hold`, inside a write transaction."""
    origin = origin_of(connection, tables, path)
    count = 0
    for row_id in ids:
        row = connection.execute(f"{tables.row} WHERE _id = ?", (row_id,)).fetchone()
        # Completed now, because what completes it comes from its row, which it leaves.
        final = origin.read(*row) if row else None
        if isinstance(final, bytes) and row[3] != SENT:
            connection.execute(f"DELETE FROM {tables.queue} WHERE _id = ?", (row_id,))
            put_at = origin.created_at if row[2] is None else row[2]
            connection.execute(f"INSERT INTO {tables.held} VALUES (?, ?, ?, {HELD})", (row_id, final, put_at))
            count += 1
    connection.execute(f"UPDATE {tables.ledger} SET held = held + ?", (count,))
    return count


def _release(connection: sqlite3.Connection, tables: Tables, ids: Sequence[int]) -> int:
    count = 0
    for row_id in ids:
        row = connection.execute(f"SELECT data FROM {tables.held} WHERE _id = ?", (row_id,)).fetchone()
        if row:
            # A row with a new id, because the daemon has passed the old one.
            put_again(connection, tables, row[0], row_id)
            connection.execute(f"DELETE FROM {tables.held} WHERE _id = ?", (row_id,))
            count += 1
    # They are not accepted once more: the baseline moves.
    connection.execute(f"UPDATE {tables.ledger} SET held = held - ?1, baseline = baseline + ?1", (count,))
    shorten(connection, tables)
    return count


def _delete(connection: sqlite3.Connection, tables: Tables, ids: Sequence[int]) -> int:
    rows = [(row_id,) for row_id in ids]
    held = connection.executemany(f"DELETE FROM {tables.held} WHERE _id = ?", rows).rowcount
    count = held + connection.executemany(f"DELETE FROM {tables.queue} WHERE _id = ?", rows).rowcount
    connection.execute(f"UPDATE {tables.ledger} SET held = held - ?, deleted = deleted + ?", (held, count))
    return count
