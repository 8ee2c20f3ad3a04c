"""persist-queue's `SQLiteAckQueue`, made safe for many processes and given sets.

What it keeps: the table, its columns and statuses, one-row ``put``/``get``/``ack``/``nack`` and the rest of
the upstream interface. What it changes on purpose:

- opening never scans: no re-queueing of in-flight rows (``auto_resume`` is off), no counting; sizes are
  counted when they are asked for;
- JSON is the only serializer: unpickling a row would run whatever its writer wanted;
- the rest as `Database` has it: one connection, one writer at a time, safe over forks and damage.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import persistqueue.serializers.json
from persistqueue import SQLiteAckQueue

from forwarder.spool.database import Database
from forwarder.spool.schema import INSERT, INSERT_SET, MOST_ID, SIZE_BITS
from forwarder.spool.sqlite_errors import used_up

PIECE_BYTES = 8 << 20


class AckQueue(Database, SQLiteAckQueue):  # type: ignore[misc]  # upstream's lock is not reentrant
    """The queue in the directory *path*, created when it is not there.

    Usable from several threads and processes at once, and after a fork.

    Args:
        path: A directory; made with its parents if missing.
        auto_resume: As upstream, but off by default.
        timeout: How long to wait for other writers, in seconds.

    Raises:
        ConfigError: the database there was made by something else, or by another version.
        NotPermittedError: this user may not write there.
    """

    def __init__(self, path: str, auto_resume: bool = False, timeout: float = 10.0, **options: Any) -> None:
        options.setdefault("serializer", persistqueue.serializers.json)
        if options["serializer"] is not persistqueue.serializers.json:
            raise ValueError("JSON is the only serializer of this queue")
        SQLiteAckQueue.__init__(self, os.fspath(path), auto_resume=auto_resume, timeout=timeout, **options)

    def _init(self) -> None:
        self.action_lock = threading.Lock()
        self.put_event = threading.Event()
        Database.__init__(self, self.path, self.timeout)

    def close(self) -> None:
        """Close the database; a later call opens it again. Raises as `Database.close`."""
        # Called by __del__ also when the constructor has refused its arguments.
        if "database_path" in self.__dict__:
            Database.close(self)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """Close what was dropped; at the very end of the process too little of Python is left for that."""
        if not is_finalizing():
            self.close()

    def put(self, item: Any) -> int:
        """Append one JSON value as upstream does, unchecked. Returns its row id."""
        row_id = self.insert(self._serializer.dumps(item), int(persistqueue.AckStatus.inited))
        # Not in insert: an exception from a signal handler can leave an event locked for good.
        self.put_event.set()
        return row_id

    def insert(self, data: bytes, status: int) -> int:
        """Append one row; on return it is on disk. Returns its id."""
        return self.write(
            lambda connection: self._plausible(connection.execute(INSERT, (data, time.time(), status)))
        )

    def insert_many(self, records: Sequence[bytes], status: int) -> None:
        """Append rows of up to 1 MB each; on return all of them are on disk, and none if it raises."""
        self.write(lambda connection: self._plausible(_insert_set(connection, records, time.time(), status)))

    def _plausible(self, inserted: sqlite3.Cursor) -> int:
        """The id of the row that was inserted last, if it is one that a queue comes to."""
        row_id = inserted.lastrowid
        assert row_id is not None
        if row_id > MOST_ID:
            raise used_up(self.path)
        return row_id

    # Upstream keeps this count in memory and reads the whole table for it; other processes make it wrong.
    @property
    def total(self) -> int:
        """How many rows are ready to be got; counts them."""
        return int(self._count())

    @total.setter
    def total(self, _value: int) -> None:
        pass

    @property  # type: ignore[override]  # upstream declares None, and assigns a connection
    def _getter(self) -> sqlite3.Connection:
        return self.connect()

    @_getter.setter
    def _getter(self, _value: None) -> None:
        pass

    _putter = _getter  # type: ignore[assignment]


def _insert_set(
    connection: sqlite3.Connection, records: Sequence[bytes], put_at: float, status: int
) -> sqlite3.Cursor:
    piece: list[bytes] = []
    places: list[int] = []
    at = 1
    for record in records:
        size = len(record)
        if at + size > PIECE_BYTES and piece:
            connection.execute(INSERT_SET, (b"".join(piece), _json(places), put_at, status))
            piece, places, at = [], [], 1
        piece.append(record)
        places.append(at << SIZE_BITS | size)
        at += size
    return connection.execute(INSERT_SET, (b"".join(piece), _json(places), put_at, status))


def _json(numbers: list[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"
