"""The database of a queue: one connection, one writer at a time, and files that may be replaced or damaged.

- Writing passes a turnstile and begins IMMEDIATE; the commit is synced (``synchronous=FULL``).
- The connection is closed before a fork, and opened again on both sides.
- Directory, database and lock file belong to a group of producers, not to the world.
- A damaged database is set aside for a fresh one; files that were replaced are not written to.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

from forwarder.errors import ForwarderError, StorageError, TryAgainError
from forwarder.spool import forks, lost_files, pause
from forwarder.spool.directory import DATABASE, Files, make_directory, sync_directory
from forwarder.spool.opening import is_emptied, opened, undo
from forwarder.spool.set_aside import set_aside, set_log_aside
from forwarder.spool.sqlite_errors import TURNSTILE, DamagedError, damaged, translated
from forwarder.spool.turnstile import Turnstile, open_shared

T = TypeVar("T")
# Connections that have crossed a fork: to close one would write into the other process's files.
_crossed: list[sqlite3.Connection] = []


class Database:
    """The database in the directory *path*, made when it is not there.

    Usable from several threads and processes at once, and after a fork.

    Args:
        path: A directory; made with its parents if missing.
        timeout: How long to wait for other writers in seconds, for threads, processes and strangers together.

    Attributes:
        files: Those that were opened last.
        replacements: How often they were found to have been replaced meanwhile.
        was_paused: What is believed of delivery should a damaged database not say any more.

    Raises:
        ConfigError: the database there was made by something else, or by a newer forwarder.
        NotPermittedError: this user may not write there.
    """

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        # The program may go to another directory.
        self.path = os.path.abspath(path)
        self.timeout = timeout
        self.database_path = os.path.join(self.path, DATABASE)
        self.files = Files(None, None, None)
        self.replacements = 0
        self.was_paused = False
        self._connection: sqlite3.Connection | None = None
        self._is_empty = False
        self.renew()
        forks.register(self)
        try:
            self.connect()
        except BaseException:
            self.disconnect()
            raise

    def renew(self) -> None:
        """Begin anew in a forked child, with locks that nobody holds."""
        self.tran_lock = threading.RLock()
        self._turnstile = Turnstile(os.path.join(self.path, TURNSTILE))
        self._pid = os.getpid()
        self._deadline: float | None = None
        self._is_writing = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the other threads out.

        Raises:
            TryAgainError: one of them has not gone within the time limit, which goes on counting inside.
        """
        self._examine_process()
        deadline = time.monotonic() + self.timeout
        got: list[bool] = []
        try:
            forks.acquire(self.tran_lock, got, self.timeout)
            if not got[0]:
                raise TryAgainError(
                    f"the queue in {self.path} has been in use by another thread for {self.timeout:g} s",
                    "Nothing was stored; try again",
                )
            outer, self._deadline = self._deadline, self._deadline or deadline
            try:
                yield
            finally:
                self._deadline = outer
        finally:
            if any(got):
                self.tran_lock.release()

    def connect(self) -> sqlite3.Connection:
        """The open connection."""
        self._examine_process()
        connection = self._connection
        if connection is None:
            with self.alone(), translated(self.path):
                if self._connection is None:
                    self._connection = self._open_sound()
                connection = self._connection
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction on the database that is at the path now: committed and synced, or undone.

        Raises:
            TryAgainError: locked for longer than the timeout, or the disk is full; or asked for by a signal
                handler while the thread that it has interrupted has one.
            StorageError, NotPermittedError: the disk or the database refuses.
        """
        with self.alone(), translated(self.path):
            if self._is_writing:
                what = f"this thread is writing to the queue in {self.path} just now"
                raise TryAgainError(what, "Call again when it has done so")
            self._is_writing = True
            try:
                self.connect()
                with self.turn():
                    connection = self._current()
                    try:
                        # Inside: a signal handler may raise when it has begun.
                        self._begin(connection)
                        yield connection
                        connection.execute("COMMIT")
                    except BaseException as error:
                        undo(connection, error, self.path)
                        raise
            finally:
                self._is_writing = False

    def close(self) -> None:
        """Close the database; a later call opens it again."""
        with self.tran_lock:
            if self._connection is not None and self.is_replaced():
                # Closing the files loses what is only there.
                with suppress(ForwarderError), self.alone(), translated(self.path), self.turn():
                    self._let_go(self._connection)
            self.disconnect()

    def write(self, step: Callable[[sqlite3.Connection], T]) -> T:
        """Take a step in a write transaction; where the database is damaged, on a fresh one in its place.

        Raises:
            TryAgainError, StorageError, NotPermittedError: as `transaction`; nothing of it was done.
        """
        for _ in range(2):
            try:
                with self.transaction() as connection:
                    return step(connection)
            except DamagedError:
                self.reopen()  # what SQLite had in memory may have been the fault
        self.replace_damaged()
        with self.transaction() as connection:
            return step(connection)

    def is_replaced(self) -> bool:
        """Whether the files at the path are others than those that were opened."""
        return Files.at(self.path) != self.files

    def reopen(self) -> None:
        """Close the connection; the next call opens another."""
        with self.tran_lock:
            self._close_connection()

    def replace_damaged(self) -> None:
        """Set the database that is open aside, unless it is another by now; later calls make a fresh one.

        Raises:
            ForwarderError: it can't be moved.
        """
        with self.alone(), translated(self.path):
            self._close_connection()
            self._set_aside()

    def disconnect(self) -> None:
        """Close all files; `tran_lock` must be held."""
        self._close_connection()
        self._turnstile.close()

    def _examine_process(self) -> None:
        if self._pid == os.getpid():
            return
        if self._connection is not None:
            what = f"this process was forked without Python while the queue in {self.path} was open"
            raise StorageError(what, "Fork by os.fork(), or before the queue is opened")
        self.renew()

    def turn(self) -> AbstractContextManager[None]:
        """Keep the writers of other processes out, too; inside `alone`."""
        return self._turnstile.passing(self._left_s())

    def _left_s(self) -> float:
        """How long may still be waited; inside `alone`."""
        return max((self._deadline or 0.0) - time.monotonic(), 0.0)

    def _begin(self, connection: sqlite3.Connection) -> None:
        left_s = self._left_s()
        has_waited = left_s < self.timeout - 0.05
        if has_waited:
            connection.execute(f"PRAGMA busy_timeout = {int(left_s * 1000)}")
        try:
            connection.execute("BEGIN IMMEDIATE")
        finally:
            if has_waited:
                connection.execute(f"PRAGMA busy_timeout = {int(self.timeout * 1000)}")

    def _open_sound(self) -> sqlite3.Connection:
        """Open the database; a damaged one is set aside for a fresh one, as intake must go on."""
        for _ in range(2):
            try:
                with translated(self.path):
                    return self._open()
            except StorageError as error:
                # What SQLite had in memory may have been the fault; or it was set aside as it was opened.
                if not isinstance(error, DamagedError) and self.files.has_database_at(self.path):
                    raise
        self._set_aside()
        return self._open()

    def _open(self) -> sqlite3.Connection:
        make_directory(self.path)
        if os.path.exists(self.database_path):
            return self._opened()
        # Others wait until it is prepared: an empty file may also be what is left of a damaged one.
        with self.turn():
            if os.path.exists(self.database_path):
                return self._opened()
            set_log_aside(self.path)
            os.close(open_shared(self.database_path))
            sync_directory(self.path)
            return self._opened(is_new=True)

    def _opened(self, is_new: bool = False) -> sqlite3.Connection:
        # Taken before the file is opened: should it be replaced in between, the next transaction sees it.
        self.files = Files.at(self.path)
        self._is_empty = not is_new and is_emptied(self.path)
        if self._is_empty:
            raise damaged(self.path, "it has lost its content")
        connection = opened(self.path, self.timeout, self.turn)
        # Opening it has made the log, unless that was there.
        self.files = replace(Files.at(self.path), database=self.files.database)
        return connection

    def _current(self) -> sqlite3.Connection:
        """The connection, opened anew if the files at the path are others by now."""
        # What is set aside goes on taking commits from whoever has it open, without an error.
        if self._connection is not None and self.is_replaced():
            self._let_go(self._connection)
        return self.connect()

    def _let_go(self, connection: sqlite3.Connection) -> None:
        """Close files that were replaced, when what is only there is safe; inside the turnstile.

        Raises:
            TryAgainError, StorageError: that can't be done now.
        """
        before = self.files
        self.replacements += 1
        lost_files.keep(connection, self.path, before)
        lost_files.leave_log_alone(before)
        # SQLite keeps the index of a database for all connections of a process: none may be left.
        for database in forks.open_at(self.path):
            if database.tran_lock.acquire(blocking=False):
                database.reopen()
                database.tran_lock.release()
        now = Files.at(self.path)
        if now.database == before.database and now.index != before.index and lost_files.is_open(before.index):
            raise TryAgainError(
                f"the queue in {self.path} was replaced, and this program has its old files open elsewhere",
                "Try again; if that does not help, restart the program",
            )

    def _set_aside(self) -> None:
        with self.turn():
            if self.files.has_database_at(self.path) and (not self._is_empty or is_emptied(self.path)):
                pause.keep(self.path, self.was_paused)
                set_aside(self.path)

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._pid == os.getpid():
            connection.close()
        else:
            _crossed.append(connection)
