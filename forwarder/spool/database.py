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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TypeVar

from forwarder.errors import ForwarderError, StorageError, TryAgainError
from forwarder.spool import forks, lost_files, pause
from forwarder.spool.access import Access
from forwarder.spool.connection import Connection, connections
from forwarder.spool.directory import DATABASE, Files, make_directory, sync_directory
from forwarder.spool.opening import is_emptied, opened, undo
from forwarder.spool.set_aside import set_aside, set_log_aside
from forwarder.spool.sqlite_errors import TURNSTILE, DamagedError, damaged, translated
from forwarder.spool.turnstile import Turnstile, open_shared

T = TypeVar("T")


class Database(Access):
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
        path = os.path.abspath(path)
        self._turnstile = Turnstile(os.path.join(path, TURNSTILE))
        super().__init__(path, timeout)
        self.database_path = os.path.join(self.path, DATABASE)
        self.files = Files(None, None, None)
        self.replacements = 0
        self.was_paused = False
        self._is_empty = False
        forks.register(self)
        try:
            self.connect()
        except BaseException:
            with self.tran_lock:
                self._close_connection()
                self._turnstile.close()
            raise

    def _begin(self) -> None:
        super()._begin()
        self._connection: Connection | None = None
        self._turnstile.leave()
        self._turnstile = Turnstile(os.path.join(self.path, TURNSTILE))

    def connect(self) -> sqlite3.Connection:
        """The open connection."""
        self.renew()
        connection = self._connection
        if connection is None or connection.is_closed:
            with self._step():
                connection = self._connected()
        return connection

    def _connected(self) -> Connection:
        connection = self._connection
        if connection is None or connection.is_closed:
            # A signal handler may have kept another from getting here by an exception.
            self._close_connection()
            connection = self._connection = self._open_sound()
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction on the database that is at the path now: committed and synced, or undone.

        Raises:
            TryAgainError: locked for longer than the timeout, or the disk is full; or asked for by a signal
                handler while the thread that it has interrupted has one.
            StorageError, NotPermittedError: the disk or the database refuses.
        """
        with self._step():
            self._connected()
            with self.turn():
                connection = self._current()
                try:
                    # Inside: a signal handler may raise when it has begun.
                    connection.begin(self._left_s(), self.timeout)
                    yield connection
                    connection.execute("COMMIT")
                except BaseException as error:
                    undo(connection, error, self.path)
                    raise

    def close(self) -> None:
        """Close the database; a later call opens it again.

        What a signal handler has interrupted goes on, and closes it in the end.

        Raises:
            ForwarderError: files that were deleted or replaced hold what can't be saved within the time
                limit. They stay open, for another try; the last one is made when the process ends.
        """
        with self.alone():
            if self._is_interrupted:
                self._is_to_close = True
            else:
                with self._step():
                    self._close_all()

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

    @property
    def is_to_save(self) -> bool:
        """Whether files are open that were replaced: what only they hold goes with them."""
        return self._connection is not None and self.is_replaced()

    def reopen(self) -> None:
        """Close the connection; the next call opens another. Raises as `close`."""
        with self._step():
            self._release()

    def replace_damaged(self) -> None:
        """Set the database that is open aside, unless it is another by now; later calls make a fresh one.

        Raises:
            ForwarderError: it can't be moved.
        """
        with self._step():
            self._release()
            self._set_aside()

    def step_back(self) -> None:
        """Close the connection if nobody uses it, for the sake of another database at the path."""
        held: list[threading.RLock] = []
        try:
            forks.acquire(self.tran_lock, held, 0)
            if held and not self._is_busy:
                self._close_connection()
        finally:
            forks.release(held)

    def disconnect(self) -> None:
        """Close all files, as this process is about to be forked; `tran_lock` must be held.

        Raises:
            ForwarderError: as `close`.
        """
        with self.alone(), translated(self.path):
            if connection := self._connection:
                connection.undo()  # a signal handler that forks amid it can't be kept from that
            self._release()
            if not self._is_busy:
                self._turnstile.close()

    def turn(self) -> AbstractContextManager[None]:
        """Keep the writers of other processes out, too; inside `alone`."""
        make_directory(self.path)  # the whole of it may have been deleted
        return self._turnstile.passing(self._left_s())

    def _open_sound(self) -> Connection:
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

    def _open(self) -> Connection:
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

    def _opened(self, is_new: bool = False) -> Connection:
        # Taken before the file is opened: should it be replaced in between, the next transaction sees it.
        self.files = Files.at(self.path)
        self._is_empty = not is_new and is_emptied(self.path)
        if self._is_empty:
            raise damaged(self.path, "it has lost its content")
        connection = opened(self.path, self.timeout, self.tran_lock, self.turn)
        # Opening it has made the log, unless that was there.
        self.files = replace(Files.at(self.path), database=self.files.database)
        return connection

    def _current(self) -> Connection:
        """The connection, opened anew if the files at the path are others by now."""
        # What is set aside goes on taking commits from whoever has it open, without an error.
        connection = self._connection
        if connection is not None and self.is_replaced():
            self._let_go(connection)
        return self._connected()

    def _let_go(self, connection: Connection) -> None:
        """Close files that were replaced, when what is only there is safe; inside the turnstile.

        Raises:
            TryAgainError, StorageError: that can't be done now.
        """
        me: forks.Open = self
        before = self.files
        self._save(connection)
        self._close_connection()
        # SQLite keeps the index of a database for all connections of a process: none may be left.
        for database in forks.open_at(self.path):
            if database is not me and database.files == before:
                database.step_back()
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

    def _save(self, connection: Connection) -> None:
        """See to it that *connection*, whose files were replaced, can be closed; inside the turnstile."""
        self.replacements += 1
        lost_files.leave_log_alone(self.files)
        lost_files.keep(connection, self.path, self.files)

    def _release(self) -> None:
        """Close the connection, when what only its files hold is safe."""
        connection = self._connection
        if connection is not None and self.is_replaced():
            lost_files.leave_log_alone(self.files)
            try:
                with translated(self.path), self.turn():
                    self._save(connection)
            except ForwarderError as error:
                raise lost_files.not_saved(connection, self.path, error) from error
        self._close_connection()

    def _close_all(self) -> None:
        self._release()
        self._turnstile.close()

    def _close_connection(self) -> None:
        """Close what is open of this database; inside `tran_lock`."""
        self._connection = None
        for connection in connections(self.tran_lock):
            connection.close()
