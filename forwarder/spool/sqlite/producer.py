"""Appending rows to the queue's table, while there is room."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from forwarder.spool import engine
from forwarder.spool.errors import SpoolFullError
from forwarder.spool.refused import Refused
from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.directory import DATABASE, LOG, size_of
from forwarder.spool.sqlite.errors import full, used_up
from forwarder.spool.sqlite.refused import save, save_alone
from forwarder.spool.sqlite.schema import MOST_ID, used_bytes
from forwarder.spool.sqlite.tables import OF_EVENTS, SIZE_BITS, Tables
from forwarder.spool.statuses import READY
from forwarder.text import size

if TYPE_CHECKING:
    from forwarder.spool.values import Bookmark, Move

PIECE_BYTES = 8 << 20


class Producer(engine.Producer):
    """Appends rows to the queue in the directory *path*.

    Args:
        max_bytes: Refuse rows if the queue would be larger than this on disk.
        min_free_bytes: Refuse rows if the disk has less than this free.
        lock_timeout_s: How long to wait for other writers.
        tables: Those of the rows' kind.

    Raises: as `Database`.
    """

    def __init__(
        self,
        path: str,
        max_bytes: int,
        min_free_bytes: int,
        lock_timeout_s: float,
        tables: Tables = OF_EVENTS,
    ) -> None:
        self._path = path
        self._tables = tables
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._database = Database(path, timeout=lock_timeout_s)
        self._refused = Refused(partial(save_alone, self._database.path, tables))

    def append(
        self, records: Sequence[bytes], dead: Sequence[tuple[bytes, str]] = (), move: Move | None = None
    ) -> range:
        refused = self._refused.take() if self._refused else {}
        try:
            last_id = self._database.write(partial(self._insert, records, dead, move, refused))
        except BaseException:
            if refused:
                self._refused.add(refused)
            raise
        # Nobody else writes between the first and the last one.
        return range(last_id + 1 - len(records) - len(dead), last_id + 1)

    def bookmarks(self, path: str, file: str) -> list[Bookmark]:
        from forwarder.spool.sqlite import bookmarks

        return self._database.write(lambda connection: bookmarks.read(connection, self._tables, path, file))

    def refuse(self, counts: Mapping[str, int]) -> None:
        self._refused.add(counts)

    def close(self) -> None:
        self._refused.write()
        self._database.close()

    def _insert(
        self,
        records: Sequence[bytes],
        dead: Sequence[tuple[bytes, str]],
        move: Move | None,
        refused: Mapping[str, int],
        connection: sqlite3.Connection,
    ) -> int:
        tables = self._tables
        self._check_room(connection, sum(map(len, records)) + sum(len(data) for data, _ in dead))
        if refused:
            save(connection, tables, refused)
        if move:
            # Here, and below, because most producers don't need it.
            from forwarder.spool.sqlite import bookmarks

            bookmarks.save(connection, tables, move)
        now = time.time()
        row_id: int | None = 0
        if len(records) == 1:
            row_id = connection.execute(tables.insert, (records[0], now, READY)).lastrowid
        else:
            for piece, places in _pieces(records):
                row_id = connection.execute(tables.insert_set, (piece, places, now, READY)).lastrowid
        if dead:
            from forwarder.spool.sqlite.settling import refuse_rows

            row_id = refuse_rows(connection, tables, dead, now)
        assert row_id is not None
        if row_id > MOST_ID:
            raise used_up(self._path)
        return row_id

    def _check_room(self, connection: sqlite3.Connection, size_bytes: int) -> None:
        disk = os.statvfs(self._path)
        log_bytes = size_of(self._path, LOG)
        used = size_of(self._path, DATABASE) + log_bytes
        free_bytes = disk.f_bavail * disk.f_frsize
        if free_bytes < self._min_free_bytes:
            raise SpoolFullError(
                f"the disk under {self._path} has {size(free_bytes)} free, less than min_free_bytes "
                f"({size(self._min_free_bytes)})",
                "Nothing was stored; accepted events are safe. Make room, or lower it",
            )
        # The database must have room for all that is in the log, or nothing could be settled any more.
        if free_bytes < log_bytes + size_bytes:
            raise full(self._path)
        if used >= self._max_bytes and (used := used_bytes(connection)) >= self._max_bytes:
            raise SpoolFullError(
                f"the queue in {self._path} takes {used:,} bytes, as much as max_bytes allows "
                f"({self._max_bytes:,})",
                "Nothing was stored; try again when the daemon has delivered some events",
            )


def _pieces(records: Sequence[bytes]) -> Iterator[tuple[bytes, str]]:
    """The records joined, about `PIECE_BYTES` at a time, and the place of each record in it."""
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
