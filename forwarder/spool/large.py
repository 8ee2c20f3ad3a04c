"""Rows that are too large for an event, which a stranger may have put: read past, and copied in steps.

SQLite tells how long bytes are without reading them, but not how long text is. With a limit on what it may
hand out it stops at what is larger, of whatever kind, before that stands in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

from forwarder.event import MAX_EVENT_BYTES
from forwarder.spool.schema import PUT_AT, ROW, ROW_STATUS, TABLE

MOST_BYTES = 1 << 20  # more than an event may have, and what white space it may come with
_STEP_BYTES = 1 << 20
_BEHIND = "_id > ? AND _id <= ? ORDER BY _id LIMIT ?"
_NEXT = f"{ROW_STATUS} WHERE {_BEHIND}"

# Id, data, when it was put, status.
Found = tuple[int, "bytes | Large | None", float | None, int | None]


class Large:
    """Stands for data that is too large for an event, and so is left in its row.

    Attributes:
        start: Its first bytes, if they were asked for.
    """

    def __init__(self, size_bytes: int, start: bytes = b"") -> None:
        self._size_bytes = size_bytes
        self.start = start

    def __len__(self) -> int:
        return self._size_bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Large) and len(self) == len(other)

    def __hash__(self) -> int:
        return self._size_bytes

    @property
    def reason(self) -> str:
        """Why it is no event."""
        return f"{len(self)} bytes long; Mixpanel takes events of up to {MAX_EVENT_BYTES} bytes"


def rows(
    connection: sqlite3.Connection, after_id: int, last_id: int, most: int, start_bytes: int = 0
) -> Generator[Found, None, None]:
    """The rows behind *after_id* up to *last_id*, at most so many, in their order; to be closed by who does
    not want all.

    Args:
        start_bytes: How much of `Large` data is to be read.

    Raises:
        sqlite3.Error: the database can't be read.
    """
    while most > 0:
        try:
            for row in _ordinary(connection, after_id, last_id, most):
                after_id, most = row[0], most - 1
                yield row
            return
        except sqlite3.DataError:
            # Python reads a row ahead, so this may be an ordinary one before it.
            next_one = _in_parts(connection, after_id, last_id, start_bytes)
        if next_one:
            after_id, most = next_one[0], most - 1
            yield next_one


def row(connection: sqlite3.Connection, row_id: int) -> Found | None:
    """One row; None: it is not there."""
    with closing(rows(connection, row_id - 1, row_id, 1)) as found:
        return next(found, None)


def _ordinary(connection: sqlite3.Connection, after_id: int, last_id: int, most: int) -> Iterator[Found]:
    # The limit holds for a step at a time, as the connection has other users between.
    with limited(connection, MOST_BYTES):
        found = connection.execute(f"{ROW} WHERE {_BEHIND}", (after_id, last_id, most))
    with closing(found):
        while True:
            with limited(connection, MOST_BYTES):
                row = found.fetchone()
            if row is None:
                return
            yield row


def _in_parts(connection: sqlite3.Connection, after_id: int, last_id: int, start_bytes: int) -> Found | None:
    """The next row, of which something is large; None: it has just been taken out."""
    head = connection.execute(_NEXT, (after_id, last_id, 1)).fetchone()
    if head is None:
        return None
    row_id, status = head
    data: bytes | Large | None
    try:
        data = _column(connection, "CAST(data AS BLOB)", row_id)
    except sqlite3.DataError:
        data = _large(connection, row_id, start_bytes)
        if data is None:
            return None
    return row_id, data, put_at(connection, row_id), status


def put_at(connection: sqlite3.Connection, row_id: int) -> float | None:
    """When a row was put, in seconds since the epoch; None where that can't be told."""
    try:
        at = _column(connection, PUT_AT, row_id)
    except sqlite3.DataError:
        return None
    return None if at is None else float(at)


def _column(connection: sqlite3.Connection, column: str, row_id: int) -> Any:
    with limited(connection, MOST_BYTES):
        row = connection.execute(f"SELECT {column} FROM {TABLE} WHERE _id = ?", (row_id,)).fetchone()
    return row and row[0]


def _large(connection: sqlite3.Connection, row_id: int, start_bytes: int) -> Large | None:
    try:
        with closing(connection.blobopen(TABLE, "data", row_id, readonly=True)) as stored:
            return Large(len(stored), stored.read(start_bytes))
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "") != "SQLITE_ERROR":
            raise
        return None  # there is no such row any more


@contextmanager
def limited(connection: sqlite3.Connection, most_bytes: int) -> Iterator[None]:
    """Have a `sqlite3.DataError` raised for what is larger, before it stands in memory."""
    before = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, most_bytes)
    try:
        yield
    finally:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)


def read(connection: sqlite3.Connection, row_id: int) -> bytes:
    """A row's data, as a whole."""
    with closing(connection.blobopen(TABLE, "data", row_id, readonly=True)) as stored:
        return stored.read()


def copy(connection: sqlite3.Connection, row_id: int, letter_id: int) -> None:
    """Copy a row's data into a dead letter that has room for it already; inside a write transaction."""
    with (
        closing(connection.blobopen(TABLE, "data", row_id, readonly=True)) as source,
        closing(connection.blobopen("dead_letters", "data", letter_id)) as target,
    ):
        while piece := source.read(_STEP_BYTES):
            target.write(piece)
