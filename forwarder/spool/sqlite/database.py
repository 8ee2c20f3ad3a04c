"""The database of a queue: one connection, one writer at a time, and files that may be replaced or damaged.

- Writing takes the writer lock and begins IMMEDIATE; the commit is synced (``synchronous=FULL``).
- The connection is closed before a fork, and opened again on both sides.
- A group of producers can use directory, database and lock file; other users can't.
- A damaged database is set aside and replaced by a fresh one. Files that were replaced are not written to.
"""

from __future__ import annotations

import _thread
import atexit
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TypeVar

from forwarder.errors import ForwarderError, StorageError, TryAgainError
from forwarder.spool.errors import DamagedError
from forwarder.spool.sqlite import forks, room, set_aside
from forwarder.spool.sqlite.directory import DATABASE, Files, make_directory, sync_directory
from forwarder.spool.sqlite.errors import damaged, explained, translated
from forwarder.spool.sqlite.lock import LOCK, WriterLock, open_shared
from forwarder.spool.sqlite.schema import opened, undo

T = TypeVar("T")


class Database:
    """The database in the directory *path*, created if missing.

    Several threads and processes may use it at once, also after a fork. A signal handler that has
    interrupted a call gets `TryAgainError`.

    Args:
        path: A directory; created with its parents if missing.
        timeout: How long to wait for all other writers together, in seconds.

    Attributes:
        files: The files that were opened last.
        replacements: How often they were found to be replaced.
        orphaned: What only the replaced files hold, for a person.

    Raises:
        ConfigError: the database there was made by another program or another version.
        NotPermittedError: this user has no permission to write there.
    """

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        # The program may change its working directory.
        self.path = os.path.abspath(path)
        self.timeout = timeout
        self.database_path = os.path.join(self.path, DATABASE)
        self.files = Files(None, None, None)
        self.replacements = 0
        self.orphaned = ""
        self._is_empty = False
        self._connection: sqlite3.Connection | None = None
        self._writer_lock = WriterLock(os.path.join(self.path, LOCK), partial(make_directory, self.path))
        self._renew()
        forks.register(self)
        try:
            self._begin()
        except BaseException:
            with suppress(ForwarderError):
                self.close()
            raise

    def _renew(self) -> None:
        # gevent may replace it later, and a lock made before that does not know greenlets.
        self._made_by = _thread.allocate_lock
        self._lock = threading.RLock()
        self._deadline = 0.0
        self._is_busy = False
        self._pid = os.getpid()

    def _begin(self) -> None:
        """Make sure that there is a queue. If there seems to be one, it is opened at first use."""
        is_made = os.path.exists(os.path.join(self.path, LOCK)) and os.access(self.path, os.W_OK)
        if not (is_made and os.access(self.database_path, os.R_OK | os.W_OK)):
            self.connect()
            self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """Close what was dropped; not at the very end of the process, when Python is mostly gone."""
        if not is_finalizing() and "_lock" in self.__dict__:
            with suppress(ForwarderError):
                self.close()

    def connect(self) -> sqlite3.Connection:
        """The open connection."""
        if self._connection is not None and not self.has_crossed:
            return self._connection
        with self._step():
            return self._connected()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None or self._connected_by != os.getpid():
            _refuse_crossed(self.path)
            self._connection = self._open_sound()
        return self._connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction on the database that is at the path now: committed and synced, or undone.

        Raises:
            TryAgainError: locked for longer than the timeout, or the disk is full; or a signal handler calls
                that has interrupted a call.
            StorageError, NotPermittedError: the disk or the database refuses.
        """
        with self._step():
            connection = self._connected()
            self._writer_lock.acquire(self._left_s())
            try:
                # A set-aside database still takes commits from programs that have it open, without error.
                if Files.at(self.path) != self.files:
                    self._let_go()
                    connection = self._connected()
                try:
                    # Inside: a signal handler may raise once it has begun.
                    self._begin_transaction(connection)
                    yield connection
                    connection.execute("COMMIT")
                except BaseException as error:
                    undo(connection, error, self.path)
                    raise
            finally:
                self._writer_lock.release()

    def _begin_transaction(self, connection: sqlite3.Connection) -> None:
        left_s = self._left_s()
        if left_s >= self.timeout - 0.05:
            connection.execute("BEGIN IMMEDIATE")
            return
        with _waiting(connection, left_s, self.timeout):
            connection.execute("BEGIN IMMEDIATE")

    def write(self, step: Callable[[sqlite3.Connection], T]) -> T:
        """Take a step in a write transaction. A damaged database is first replaced by a fresh one.

        Raises:
            TryAgainError, StorageError, NotPermittedError: as `transaction`; nothing was done.
        """
        for _ in range(2):
            try:
                with self.transaction() as connection:
                    return step(connection)
            except DamagedError:
                self.reopen()  # only SQLite's memory may have been wrong
        self.replace_damaged()
        with self.transaction() as connection:
            return step(connection)

    def is_replaced(self) -> bool:
        """Whether the files at the path are not those that were opened."""
        return Files.at(self.path) != self.files

    def reopen(self) -> None:
        """Close the connection; the next call opens another."""
        with self._step():
            self._release()

    def close(self) -> None:
        """Close the files; a later call opens them again."""
        with self._step():
            self._release()
            self._writer_lock.close()

    def replace_damaged(self) -> None:
        """Set the open database aside, unless it was replaced already; later calls make a fresh one.

        Raises:
            ForwarderError: it can't be moved.
        """
        with self._step():
            self._release()
            self._set_aside()

    def empty_log(self, patience_s: float = 0.0) -> bool:
        """Empty the log. All writers have to wait as long as this waits for readers, *patience_s*.

        Returns:
            False: a reader or writer was in the way.

        Raises:
            StorageError: as `transaction`.
        """
        try:
            # Not beside a writer: SQLite before 3.51.3 could lose what is written to a log during its reset.
            with self._step(), self._writer_lock.held(min(self._left_s(), room.PATIENCE_S)):
                connection = self._connected()
                with _waiting(connection, patience_s, self.timeout):
                    row = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except TryAgainError:
            return False
        return not row[0]

    # Forks

    @property
    def has_crossed(self) -> bool:
        """Whether its connection belongs to the parent process, which has forked this one."""
        return self._connection is not None and self._connected_by != os.getpid()

    def before_fork(self) -> None:
        """Wait until no thread uses it, keep them out, and close its files."""
        self._lock.acquire()
        if not self._is_busy and self._pid == os.getpid():
            with translated(self.path):
                self._release()
                self._writer_lock.close()

    def after_fork(self, *, in_child: bool) -> None:
        """Let threads use it again."""
        if in_child:
            self._renew()
            self._writer_lock.leave()
        else:
            self._lock.release()

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Keep out other threads, and a signal handler that has interrupted a call.

        Raises:
            TryAgainError: another thread has not finished within the time limit, which also covers the
                block; or such a handler calls.
        """
        if self._pid != os.getpid():
            self._renew()
            self._writer_lock.leave()
        elif self._made_by is not _thread.allocate_lock:
            self._renew()
        deadline = time.monotonic() + self.timeout
        if not self._lock.acquire(timeout=self.timeout):
            raise TryAgainError(
                f"the queue in {self.path} has been in use by another thread for {self.timeout:g} s",
                "Nothing was stored; try again",
            )
        if self._is_busy:
            self._lock.release()
            raise TryAgainError(
                f"this thread is opening, closing or writing to the queue in {self.path} now",
                "Nothing was stored; don't use a queue in a signal handler",
            )
        try:
            self._is_busy, self._deadline = True, deadline
            yield
        except (sqlite3.Error, OSError) as error:
            raise explained(error, self.path) from error
        finally:
            self._is_busy = False
            if self._writer_lock.is_taken:
                self._writer_lock.let_go()
            self._lock.release()

    # Inside `_step`

    def _left_s(self) -> float:
        """How much time is left to wait."""
        return max(self._deadline - time.monotonic(), 0.0)

    def _turn(self) -> AbstractContextManager[None]:
        """Keep out the writers of other processes, too."""
        return self._writer_lock.held(self._left_s())

    def _open_sound(self) -> sqlite3.Connection:
        """Open the database. A damaged one is set aside for a fresh one, because intake must continue."""
        for _ in range(2):
            try:
                with translated(self.path):
                    return self._open()
            except StorageError as error:
                # Only SQLite's memory may have been wrong; or it was set aside while it was opened.
                if not isinstance(error, DamagedError) and self.files.has_database_at(self.path):
                    raise
        with translated(self.path):
            self._set_aside()
        return self._open()

    def _open(self) -> sqlite3.Connection:
        make_directory(self.path)
        if os.path.exists(self.database_path):
            with suppress(FileNotFoundError):  # set aside by others at this moment
                return self._opened()
        # Others wait until it is prepared: an empty file may also be the rest of a damaged one.
        with self._turn():
            if os.path.exists(self.database_path):
                return self._opened()
            set_aside.set_log_aside(self.path)
            os.close(open_shared(self.database_path))
            sync_directory(self.path)
            return self._opened(is_new=True)

    def _opened(self, is_new: bool = False) -> sqlite3.Connection:
        # Taken before the file is opened: if it is replaced in between, the next transaction sees it.
        self.files = Files.at(self.path)
        self._is_empty = not is_new and room.is_emptied(self.path)
        if self._is_empty:
            raise damaged(self.path, "it is empty")
        connection = opened(self.path, self.timeout, self._turn)
        self._connected_by = os.getpid()
        # Opening it has created the log if that was missing.
        self.files = Files.at(self.path)._replace(database=self.files.database)
        return connection

    def _release(self) -> None:
        """Close the connection."""
        if self._connection is None or self.has_crossed:
            return
        if self.is_replaced():
            with self._turn():
                self._let_go()
        else:
            connection, self._connection = self._connection, None
            connection.close()

    def _let_go(self) -> None:
        """Close files that were replaced; inside the writer lock.

        Raises:
            TryAgainError: this process has them open elsewhere.
        """
        assert self._connection is not None
        connection, self._connection = self._connection, None
        before = self.files
        self.replacements += 1
        self.orphaned = set_aside.let_go(connection, self.path, before) or self.orphaned
        # SQLite shares the index of a database between all connections of a process: none may be left.
        for other in forks.registered():
            if other is not self and other.files == before:
                other.step_back()
        now = Files.at(self.path)
        if (
            now.database == before.database
            and now.log_index != before.log_index
            and set_aside.is_open(before.log_index)
        ):
            raise TryAgainError(
                f"the queue in {self.path} was replaced, and this program has its old files open elsewhere",
                "Try again; if that does not help, restart the program",
            )

    def step_back(self) -> None:
        """Close the connection if it is not in use, because another database is at the path."""
        if self._lock.acquire(blocking=False):
            try:
                if self._connection is not None and not self._is_busy:
                    connection, self._connection = self._connection, None
                    set_aside.let_go(connection, self.path, self.files)
            finally:
                self._lock.release()

    def _set_aside(self) -> None:
        # If the disk can't read for a moment, SQLite may report a damaged database.
        set_aside.read_plainly(self.path)
        with self._turn():
            if self.files.has_database_at(self.path) and (not self._is_empty or room.is_emptied(self.path)):
                set_aside.set_aside(self.path)


def _at_exit() -> None:
    # Closed at Python's exit, they would delete the log of another database at the path.
    for one in forks.registered():
        # Where this user can't look, it can't take anything along either.
        with suppress(PermissionError):
            if one.is_replaced():
                one.step_back()


atexit.register(_at_exit)


@contextmanager
def _waiting(connection: sqlite3.Connection, most_s: float, timeout_s: float) -> Iterator[None]:
    """Let SQLite wait *most_s* for its locks, and then *timeout_s* again."""
    connection.execute(f"PRAGMA busy_timeout = {int(most_s * 1000)}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")


def _refuse_crossed(path: str) -> None:
    for one in forks.registered():
        if one.path == path and one.has_crossed:
            raise StorageError(
                f"this process was forked while the queue in {path} was in use, and can't use it",
                "Fork with os.fork() between calls, or before the queue is first used",
            )
