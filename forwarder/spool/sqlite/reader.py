"""What all who look into the database need: short reads, conditions, and content as bytes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forwarder.spool.sqlite.errors import translated
from forwarder.spool.sqlite.tables import Tables
from forwarder.spool.values import Selection

_CHUNK_IDS = 10_000


class Reader:
    """The base of all readers.

    Attributes:
        path: The queue's directory.
        tables: The kind's tables.
        connection: The read-only connection, for the other readers of this package.
    """

    path: str
    tables: Tables
    connection: sqlite3.Connection

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with translated(self.path):
            return self.connection.execute(query, values).fetchall()

    def _chunks(self, table: str, key: str, where: Selection, after_id: int = 0) -> Iterator[tuple[int, int]]:
        """The ranges of ids to read: in short reads, because a long one would delay the log's checkpoint."""
        last = int(self._rows(f"SELECT coalesce(max({key}), 0) FROM {table}")[0][0])
        if where.ids is not None:
            yield after_id + 1, last  # only these are looked up, however many are between them
            return
        while after_id < last:
            # The first existing one: between two ids any number may be missing.
            first = self._rows(f"SELECT min({key}) FROM {table} WHERE {key} > ?", (after_id,))[0][0]
            if first is None:
                return
            after_id = min(first + _CHUNK_IDS - 1, last)
            yield first, after_id


def matching(parts: Mapping[str, object]) -> tuple[str, list[object]]:
    """The conditions that have a value, as SQL with its parameters."""
    given = {part: value for part, value in parts.items() if value is not None}
    return " AND ".join(("1", *given)), list(given.values())


def as_bytes(data: object) -> bytes:
    """The content of a row as bytes, whatever its type."""
    if isinstance(data, bytes):
        return data
    return data.encode(errors="surrogatepass") if isinstance(data, str) else repr(data).encode()
