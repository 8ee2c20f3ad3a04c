"""persist-queue's `SQLiteAckQueue`, safe for many processes: for programs that use its get and ack.

It keeps the table, its columns and statuses, one-row ``put``/``get``/``ack``/``nack`` and the rest of the
upstream interface. It changes on purpose:

- opening never scans: rows in flight are not re-queued (``auto_resume`` is off), and sizes are counted only
  on request;
- JSON is the only serializer: unpickling a row would run its writer's code;
- like `Database`, it has one connection and one writer at a time, and handles forks and damage.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from typing import Any

import persistqueue.serializers.json
from persistqueue import SQLiteAckQueue

from forwarder.records import KINDS
from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.errors import used_up
from forwarder.spool.sqlite.schema import MOST_ID

_NAMES = tuple(kind.queue for kind in KINDS.values())


class AckQueue(Database, SQLiteAckQueue):
    """The queue in the directory *path*, created if missing.

    Several threads and processes may use it at once, also after a fork.

    Args:
        path: A directory; created with its parents if missing.
        auto_resume: As upstream, but off by default.
        options: As upstream. The ``name`` is "default" for events, "engage" or "groups".
        timeout: How long to wait for other writers, in seconds.

    Raises:
        ValueError: there is no queue of this name, or the serializer is another one.
        ConfigError: the database there was made by another program or another version.
        NotPermittedError: this user has no permission to write there.
    """

    def __init__(self, path: str, auto_resume: bool = False, timeout: float = 10.0, **options: Any) -> None:
        options.setdefault("serializer", persistqueue.serializers.json)
        if options["serializer"] is not persistqueue.serializers.json:
            raise ValueError("JSON is the only serializer of this queue")
        if (name := options.get("name", "default")) not in _NAMES:
            raise ValueError(f"there is no queue named {name!r}: there are {', '.join(_NAMES)}")
        SQLiteAckQueue.__init__(self, os.fspath(path), auto_resume=auto_resume, timeout=timeout, **options)

    def _init(self) -> None:
        self.action_lock = threading.Lock()
        self.put_event = threading.Event()
        Database.__init__(self, self.path, self.timeout)

    def put(self, item: Any) -> int:
        """Append one JSON value as upstream does, unchecked. Returns its row id."""
        data = self._serializer.dumps(item)

        def step(connection: sqlite3.Connection) -> int:
            row_id = connection.execute(self._sql_insert, (data, time.time())).lastrowid
            assert row_id is not None
            if row_id > MOST_ID:
                raise used_up(self.path)
            return row_id

        row_id = self.write(step)
        self.put_event.set()
        return row_id

    # Upstream reads the whole table for this count and keeps it in memory; other processes make it wrong.
    @property
    def total(self) -> int:
        """How many rows are ready for `get`; counts them."""
        return int(self._count())

    @total.setter
    def total(self, _value: int) -> None:
        pass

    @property
    def tran_lock(self) -> Any:  # upstream makes its own, which is not reentrant
        """The lock that keeps other threads out."""
        return self._lock

    @tran_lock.setter
    def tran_lock(self, _value: object) -> None:
        pass

    @property  # type: ignore[override]  # upstream declares None, and assigns a connection
    def _getter(self) -> sqlite3.Connection:
        return self.connect()

    @_getter.setter
    def _getter(self, _value: None) -> None:
        pass

    _putter = _getter  # type: ignore[assignment]
