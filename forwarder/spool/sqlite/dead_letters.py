"""Dead letters: added when a batch is settled; a person lists, summarises, retries and deletes them."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple

from forwarder.errors import EventError
from forwarder.spool import engine
from forwarder.spool.dead_letters import Groups, beginning_so
from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.reader import Reader, as_bytes, matching
from forwarder.spool.sqlite.room import freeing
from forwarder.spool.sqlite.tables import KEPT_ENTRIES, PUT_AT, Tables
from forwarder.spool.statuses import READY
from forwarder.spool.values import Brief, Dead, DeadLetter, Group, Selection

STEP_LETTERS = 1000
STEP_BYTES = 4 << 20


class NewDeadLetter(NamedTuple):
    """A dead letter to add, without an id yet; instants in seconds since the epoch."""

    event_id: int
    data: bytes | None
    event: str
    insert_id: str
    reason: str
    field: str
    http_status: int | None
    accepted_at: float
    dead_at: float


def new_dead_letter(
    connection: sqlite3.Connection, tables: Tables, dead: Dead, now: float
) -> NewDeadLetter | None:
    """The dead letter to add. Some of it comes from the event's row; None: that is gone."""
    # As `Origin` reads it: a row without a time has the queue's own.
    query = f"SELECT coalesce({PUT_AT}, created_at) FROM {tables.queue}, {tables.ledger} WHERE _id = ?"
    row = connection.execute(query, (dead.event_id,)).fetchone()
    if row is None:
        return None
    event, insert_id = tables.kind.name_of(dead.data)
    return NewDeadLetter(
        dead.event_id, dead.data, event, insert_id, dead.reason, dead.field, dead.http_status, row[0], now
    )


def add(connection: sqlite3.Connection, tables: Tables, letters: Iterable[NewDeadLetter]) -> None:
    """Add dead letters, inside a write transaction."""
    connection.executemany(
        f"INSERT INTO {tables.dead_letters} (event_id, data, event, insert_id, reason, field, http_status,"
        " accepted_at, dead_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        letters,
    )


class DeadLetters(Reader, engine.DeadLetters):
    """Reading dead letters, for `view.View`."""

    def count_dead_letters(self, where: Selection) -> int:
        condition, values = _condition(where)
        table = self.tables.dead_letters
        query = f"SELECT count(*) FROM {table} WHERE id BETWEEN ? AND ? AND {condition}"
        return sum(self._rows(query, (*chunk, *values))[0][0] for chunk in self._chunks(table, "id", where))

    def newest_dead_letter(self) -> int:
        return int(self._rows(f"SELECT coalesce(max(id), 0) FROM {self.tables.dead_letters}")[0][0])

    def dead_letters(
        self, where: Selection, after_id: int = 0, limit: int = 1000, with_data: bool = True
    ) -> list[DeadLetter]:
        data = "CAST(data AS BLOB)" if with_data else "x''"
        condition, values = _condition(where)
        table = self.tables.dead_letters
        query = (
            f"SELECT id, event_id, {data}, event, insert_id, reason, field, http_status,"
            f" accepted_at, dead_at FROM {table}"
            f" WHERE id BETWEEN ? AND ? AND {condition} ORDER BY id LIMIT ?"
        )
        found: list[DeadLetter] = []
        for chunk in self._chunks(table, "id", where, after_id):
            rows = self._rows(query, (*chunk, *values, limit - len(found)))
            found += [DeadLetter(row[0], row[1], as_bytes(row[2]), *row[3:]) for row in rows]
            if len(found) == limit:
                break
        return found

    def latest_dead_letters(self, limit: int, digits: str = "") -> list[Brief]:
        query = (
            f"SELECT id, event, reason, field FROM {self.tables.dead_letters}"
            " WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT ?"
        )
        found: list[Brief] = []
        for first, last in beginning_so(digits, self.newest_dead_letter()):
            found += [Brief(*row) for row in self._rows(query, (first, last, limit - len(found)))]
        return found

    def summary(self, where: Selection) -> list[Group]:
        condition, values = _condition(where)
        groups = Groups()
        table = self.tables.dead_letters
        for chunk in self._chunks(table, "id", where):
            rows = self._rows(
                "SELECT reason, field, http_status, event, count(*), min(dead_at), max(dead_at), min(id)"
                f" FROM {table} WHERE id BETWEEN ? AND ? AND {condition}"
                " GROUP BY reason, field, http_status, event",
                (*chunk, *values),
            )
            groups.add(Group(*row) for row in rows)
        return groups.by_size()


def retry(
    path: str, tables: Tables, ids: Iterable[int], edit: Callable[[bytes, float], bytes]
) -> tuple[dict[int, int], list[tuple[int, str]]]:
    """See `engine.Spool.retry_dead_letters`; each gets a new row, which ``retries`` records."""
    stayed: list[tuple[int, str]] = []
    new_ids: dict[int, int] = {}
    with closing(Database(path)) as queue, queue.transaction() as connection:
        for letter_id in ids:
            row = connection.execute(
                f"SELECT CAST(data AS BLOB), accepted_at, event_id FROM {tables.dead_letters} WHERE id = ?",
                (letter_id,),
            ).fetchone()
            if row is None:
                continue
            try:
                data = edit(as_bytes(row[0]), row[1])
            except EventError as error:
                stayed.append((letter_id, str(error)))
                continue
            new_ids[letter_id] = put_again(connection, tables, data, row[2], letter_id)
            connection.execute(f"DELETE FROM {tables.dead_letters} WHERE id = ?", (letter_id,))
        connection.execute(f"UPDATE {tables.ledger} SET retried = retried + ?", (len(new_ids),))
        shorten(connection, tables)
    return new_ids, stayed


def put_again(
    connection: sqlite3.Connection, tables: Tables, data: bytes, event_id: int, letter_id: int = 0
) -> int:
    """Add a row for the record that had the id *event_id*, was the dead letter *letter_id* or held, and waits
    from now on. Returns the row's id."""
    now = time.time()
    new_id = connection.execute(tables.insert, (data, now, READY)).lastrowid
    assert new_id is not None
    connection.execute(
        f"INSERT INTO {tables.retries} (dead_letter_id, event_id, new_event_id, at) VALUES (?, ?, ?, ?)",
        (letter_id, event_id, new_id, now),
    )
    return new_id


def shorten(connection: sqlite3.Connection, tables: Tables) -> None:
    """Keep the newest `KEPT_ENTRIES` of what `put_again` has noted."""
    connection.execute(
        f"DELETE FROM {tables.retries} WHERE id <= (SELECT max(id) FROM {tables.retries}) - ?",
        (KEPT_ENTRIES,),
    )


def delete(path: str, tables: Tables, ids: Sequence[int]) -> int:
    """See `engine.Spool.delete_dead_letters`."""
    with closing(Database(path)) as queue:
        return freeing(queue, queue.transaction, partial(discard, tables=tables, ids=ids))


def expired(
    connection: sqlite3.Connection, tables: Tables, before: float, after_id: int
) -> tuple[list[int], int]:
    """The next dead letters behind *after_id* that died before *before* (seconds since the epoch).

    As many as can be deleted without delaying others; and the last id that was read."""
    ids: list[int] = []
    last_id = after_id
    size_bytes = 0
    query = (
        # To know the length of text, which an external producer may have stored, SQLite would read all of it.
        f"SELECT id, dead_at < ?, iif(typeof(data) = 'blob', length(data), 0) FROM {tables.dead_letters}"
        " WHERE id > ? ORDER BY id LIMIT ?"
    )
    with closing(connection.execute(query, (before, after_id, STEP_LETTERS))) as found:
        for letter_id, is_old, data_bytes in found:
            last_id = letter_id
            size_bytes += data_bytes
            if is_old:
                ids.append(letter_id)
            if size_bytes >= STEP_BYTES:
                break
    return ids, last_id


def discard(connection: sqlite3.Connection, tables: Tables, ids: Sequence[int]) -> int:
    """Delete the dead letters *ids* that still exist. Returns how many.

    Call it inside a write transaction.
    """
    count = connection.executemany(
        f"DELETE FROM {tables.dead_letters} WHERE id = ?", [(letter_id,) for letter_id in ids]
    ).rowcount
    connection.execute(f"UPDATE {tables.ledger} SET discarded = discarded + ?", (count,))
    return count


def _condition(where: Selection) -> tuple[str, list[object]]:
    """The selection as SQL, with its parameters."""
    parts = {
        "id IN (SELECT value FROM json_each(?))": None if where.ids is None else str(list(where.ids)),
        "instr(lower(reason), lower(?))": where.reason,
        "event = ?": where.event,
        "concerns(CAST(data AS BLOB), ?)": where.user,
        "dead_at >= ?": where.since,
        "dead_at < ?": where.before,
        "insert_id = ?": where.insert_id,
    }
    return matching(parts)
