"""Whether a database is still the one that was read from, so that row ids mean the same events."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass

from forwarder.spool.sqlite_errors import damaged


@dataclass(frozen=True, slots=True)
class Identity:
    """Which queue it is, in which state of its life.

    Attributes:
        consumer: The mark of the consumer that has begun last; a state from before has another.
        version: SQLite's number of the schema, which it raises when it restores a backup.
        schema: The tables, indexes and triggers there are.
    """

    queue_id: str
    consumer: str | None
    version: int
    schema: str

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> Identity:
        """As it is now.

        Raises:
            DamagedError: the database has lost its books.
            sqlite3.Error: it can't be read.
        """
        (schema,) = connection.execute("SELECT group_concat(sql) FROM sqlite_master").fetchone()
        return cls(*_numbers(connection), schema)

    def found_in(self, connection: sqlite3.Connection) -> Identity | None:
        """The same, as it is now; None: it is another by now. Raises as `of`."""
        numbers = _numbers(connection)
        if numbers == (self.queue_id, self.consumer, self.version):
            return self
        found = Identity.of(connection)
        if (found.queue_id, found.consumer) != (self.queue_id, self.consumer):
            return None
        # Who adds an index changes both; a backup of this very queue has the tables that are there.
        return found if found.schema != self.schema else None


def _numbers(connection: sqlite3.Connection) -> tuple[str, str | None, int]:
    row: tuple[str, str | None, int] | None = connection.execute(
        "SELECT queue_id, consumer, (SELECT schema_version FROM pragma_schema_version) FROM ledger, control"
    ).fetchone()
    if row is None:
        (_, _, file) = connection.execute("PRAGMA database_list").fetchone()
        raise damaged(os.path.dirname(file), "it has lost its books")
    return row
