"""persist-queue's `SQLiteAckQueue`, made safe for many processes and given sets.

What it keeps: the table, its columns and statuses, one-row ``put``/``get``/``ack``/``nack`` and the rest of
the upstream interface. What it changes on purpose:

- opening never scans: no re-queueing of in-flight rows (``auto_resume`` is off), no counting; sizes are
  counted when they are asked for;
- JSON is the only serializer: unpickling a row would run whatever its writer wanted;
- writing passes a turnstile and begins IMMEDIATE; the commit is synced (``synchronous=FULL``);
- one connection, which is closed before a fork and opened again on both sides;
- directory, database and lock file belong to a group of producers, not to the world.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import persistqueue.serializers.json
from persistqueue import SQLiteAckQueue

from forwarder.spool import schema
from forwarder.spool.reserve import Reserve
from forwarder.spool.sqlite_errors import translated
from forwarder.spool.turnstile import Turnstile, open_shared

DIRECTORY_MODE = 0o2770
DATABASE = "data.db"
JOURNAL_SIZE_LIMIT = 8 * 1024 * 1024

INSERT = f"INSERT INTO {schema.TABLE} (data, timestamp, status) VALUES (?, ?, ?)"

_open_queues: weakref.WeakSet[AckQueue] = weakref.WeakSet()


class AckQueue(SQLiteAckQueue):
    """The queue in the directory *path*, created when it is not there.

    Usable from several threads and processes at once, and after a fork.

    Args:
        path: A directory; made with its parents if missing.
        auto_resume: As upstream, but off by default.
        timeout: How long to wait for other writers, in seconds.

    Raises:
        ConfigError: the database there was made by something else, or by a newer forwarder.
        NotPermittedError: this user may not write there.
    """

    def __init__(self, path: str, auto_resume: bool = False, timeout: float = 10.0, **options: Any) -> None:
        options.setdefault("serializer", persistqueue.serializers.json)
        if options["serializer"] is not persistqueue.serializers.json:
            raise ValueError("JSON is the only serializer of this queue")
        super().__init__(os.fspath(path), auto_resume=auto_resume, timeout=timeout, **options)

    def _init(self) -> None:
        self.tran_lock = threading.RLock()  # type: ignore[assignment]  # a lock, and reentrant
        self.action_lock = threading.Lock()
        self.put_event = threading.Event()
        self.database_path = os.path.join(self.path, DATABASE)
        self._connection: sqlite3.Connection | None = None
        self.file: tuple[int, int] | None = None  # device and inode of the database that was opened
        self._turnstile = Turnstile(os.path.join(self.path, "turnstile"))
        try:
            self.connect()
        except BaseException:
            self.disconnect()
            raise
        _open_queues.add(self)

    def connect(self) -> sqlite3.Connection:
        """The open connection."""
        with self.tran_lock:
            if self._connection is None:
                with translated(self.path):
                    self._connection = self._open()
            return self._connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction on the database that is at the path now: committed and synced, or undone.

        Raises:
            TryAgainError: locked for longer than the timeout, or the disk is full.
            StorageError, NotPermittedError: the disk or the database refuses.
        """
        with self.tran_lock, translated(self.path):
            self.connect()
            with self._turnstile.passing(self.timeout):
                connection = self._current()
                try:
                    # Inside: a signal handler may raise when it has begun.
                    connection.execute("BEGIN IMMEDIATE")
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise

    def close(self) -> None:
        """Close the database; a later call opens it again."""
        if "database_path" not in self.__dict__:
            return  # upstream's __del__ calls this also when the constructor has refused its arguments
        with self.tran_lock:
            self.disconnect()

    def put(self, item: Any) -> int:
        """Append one JSON value as upstream does, unchecked. Returns its row id."""
        return self.insert(self._serializer.dumps(item), int(persistqueue.AckStatus.inited))

    def insert(self, data: bytes, status: int) -> int:
        """Append one row; on return it is on disk. Returns its id."""
        with self.transaction() as connection:
            row_id = connection.execute(INSERT, (data, time.time(), status)).lastrowid
        self.put_event.set()
        assert row_id is not None
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

    def _open(self) -> sqlite3.Connection:
        _make_directory(self.path)
        if not os.path.exists(self.database_path):
            with self._turnstile.passing(self.timeout):
                os.close(open_shared(self.database_path))
                sync_directory(self.path)
        # Taken before the file is opened: should it be replaced in between, the next transaction sees it.
        found = os.stat(self.database_path)
        connection = sqlite3.connect(
            self.database_path, timeout=self.timeout, isolation_level=None, check_same_thread=False
        )
        try:
            if not schema.is_ours(connection):
                self._prepare(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_SIZE_LIMIT}")
        except BaseException:
            connection.close()
            raise
        self.file = (found.st_dev, found.st_ino)
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        schema.refuse_strangers(connection, self.database_path)
        with self._turnstile.passing(self.timeout):
            # Only takes effect before the first table; an adopted database goes without.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                schema.prepare(connection, self.database_path)
                connection.execute("COMMIT")
            except BaseException:
                # After some errors, a full disk among them, SQLite has done so already.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        # Now, not when a daemon starts: by then the disk may be full.
        Reserve(self.path).fill()

    def _current(self) -> sqlite3.Connection:
        """The connection, opened anew if the file at the path is another by now."""
        # What is set aside goes on taking commits from whoever has it open, without an error.
        if self._connection is not None and self.is_replaced():
            self._connection.close()
            self._connection = None
        return self.connect()

    def is_replaced(self) -> bool:
        """Whether the file at the path is another than the one that was opened."""
        try:
            found = os.stat(self.database_path)
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) != self.file

    def disconnect(self) -> None:
        """Close all files; `tran_lock` must be held."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._turnstile.close()


def prepare_directory(path: str) -> None:
    """Make the queue's directory for a group of producers, if it is not there; durable on return.

    Raises:
        NotPermittedError, ConfigError, TryAgainError, StorageError: why it can't be made.
    """
    with translated(path):
        _make_directory(path)


def _make_directory(path: str) -> None:
    if os.path.isdir(path):
        return
    parent = os.path.dirname(os.path.abspath(path))
    os.makedirs(parent, exist_ok=True)
    try:
        os.mkdir(path, DIRECTORY_MODE)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return
    os.chmod(path, DIRECTORY_MODE)
    sync_directory(parent)


def sync_directory(path: str) -> None:
    """Put the names in a directory on disk, as a file's own sync does not."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_held_for_fork: list[AckQueue] = []


def _before_fork() -> None:
    # A SQLite connection must not cross a fork, and SQLite's record of locks, which is shared by all
    # connections to a file, neither: so they are closed before, between transactions.
    for queue in list(_open_queues):
        queue.tran_lock.acquire()
        queue.disconnect()
        _held_for_fork.append(queue)


def _after_fork() -> None:
    while _held_for_fork:
        _held_for_fork.pop().tran_lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
