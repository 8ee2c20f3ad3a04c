"""Putting rows at the end of the queue's table."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence

from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.errors import used_up
from forwarder.spool.sqlite.schema import INSERT, INSERT_SET, MOST_ID, SIZE_BITS

PIECE_BYTES = 8 << 20


def append(database: Database, records: Sequence[bytes], status: int) -> int:
    """Append rows of up to 1 MB each: on return all are on disk, and none if it raises.

    Returns:
        the id of the last one.

    Raises: as `Database.write`.
    """

    def step(connection: sqlite3.Connection) -> int:
        now = time.time()
        row_id: int | None = None
        if len(records) == 1:
            row_id = connection.execute(INSERT, (records[0], now, status)).lastrowid
        else:
            for piece, places in _pieces(records):
                row_id = connection.execute(INSERT_SET, (piece, places, now, status)).lastrowid
        assert row_id is not None
        if row_id > MOST_ID:
            raise used_up(database.path)
        return row_id

    return database.write(step)


def _pieces(records: Sequence[bytes]) -> Iterator[tuple[bytes, str]]:
    """The records joined, some `PIECE_BYTES` at a time, and where in that each of them is."""
    piece: list[bytes] = []
    places: list[str] = []
    at = 1
    for number, record in enumerate(records, 1):
        piece.append(record)
        places.append(str(at << SIZE_BITS | len(record)))
        at += len(record)
        if at > PIECE_BYTES or number == len(records):
            yield b"".join(piece), f"[{','.join(places)}]"
            piece, places, at = [], [], 1
