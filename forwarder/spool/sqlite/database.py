"""The database of a queue: one connection, one writer at a time, and files that may be replaced or damaged.

- Writing takes the writer lock and begins IMMEDIATE; the commit is synced (``synchronous=FULL``).
- The connection is closed before a fork, and opened again on both sides.
- Directory, database and lock file belong to a group of producers, not to the world.
- A damaged database is set aside for a fresh one; files that were replaced are not written to.
"""

from __future__ import annotations

import _thread
import atexit
import math
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeVar

from forwarder.errors import ForwarderError, StorageError, TryAgainError
from forwarder.spool.errors import DamagedError
from forwarder.spool.sqlite import forks, lost_files
from forwarder.spool.sqlite.directory import DATABASE, Files, make_directory, sync_directory
from forwarder.spool.sqlite.errors import LOCK, damaged, explained, translated
from forwarder.spool.sqlite.lock import WriterLock, open_shared
from forwarder.spool.sqlite.opening import is_emptied, opened, undo
from forwarder.spool.sqlite.set_aside import set_aside, set_log_aside

T = TypeVar("T")


class Database:
    """The database in the directory *path*, made when it is not there.

    Usable from several threads and processes at once, and after a fork. Not from a signal handler that has
    interrupted a call: it gets `TryAgainError`.

    Args:
        path: A directory; made with its parents if missing.
        timeout: How long to wait for other writers in seconds, for threads, processes and others together.

    Attributes:
        files: Those that were opened last.
        replacements: How often they were found to have been replaced meanwhile.
        orphaned: What only the replaced files hold, for a person.

    Raises:
        ConfigError: the database there was made by something else, or by another version.
        NotPermittedError: this user may not write there.
    """

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        # The program may go to another directory.
        self.path = os.path.abspath(path)
        self.timeout = timeout
        self.database_path = os.path.join(self.path, DATABASE)
        self.files = Files(None, None, None)
        self.replacements = 0
        self.orphaned = ""
        self._is_empty = False
        self._connection: sqlite3.Connection | None = None
        self._writer_lock = WriterLock(os.path.join(self.path, LOCK), lambda: make_directory(path))
        self._renew()
        forks.register(self)
        try:
            self._begin()
        except BaseException:
            with suppress(ForwarderError):
                self.close()
            raise

    def _renew(self) -> None:
        # gevent may replace it later, and what was made before knows no greenlets.
        self._made_by = _thread.allocate_lock
        self._lock = threading.RLock()
        self._deadline: float | None = None
        self._is_busy = False
        self._pid = os.getpid()

    def _begin(self) -> None:
        """Make sure that there is a queue; opened when it is used first, if there seems to be one."""
        is_made = os.path.exists(os.path.join(self.path, LOCK)) and os.access(self.path, os.W_OK)
        if not (is_made and os.access(self.database_path, os.R_OK | os.W_OK)):
            self.connect()
            self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """Close what was dropped; at the very end of the process too little of Python is left for that."""
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
        if self._connection is None or self.has_crossed:
            _refuse_crossed(self.path)
            self._connection = self._open_sound()
        return self._connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction on the database that is at the path now: committed and synced, or undone.

        Raises:
            TryAgainError: locked for longer than the timeout, or the disk is full; or asked for by a signal
                handler that has interrupted a call.
            StorageError, NotPermittedError: the disk or the database refuses.
        """
        with self._step():
            self._connected()
            with self.turn():
                connection = self._current()
                try:
                    # Inside: a signal handler may raise when it has begun.
                    self._begin_transaction(connection)
                    yield connection
                    connection.execute("COMMIT")
                except BaseException as error:
                    undo(connection, error, self.path)
                    raise

    def _begin_transaction(self, connection: sqlite3.Connection) -> None:
        has_waited = self._left_s() < self.timeout - 0.05
        if has_waited:
            connection.execute(f"PRAGMA busy_timeout = {int(self._left_s() * 1000)}")
        try:
            connection.execute("BEGIN IMMEDIATE")
        finally:
            if has_waited:
                connection.execute(f"PRAGMA busy_timeout = {int(self.timeout * 1000)}")

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
        with self._step():
            self._release()

    def close(self) -> None:
        """Close the files; a later call opens them again."""
        with self._step():
            self._release()
            self._writer_lock.close()

    def replace_damaged(self) -> None:
        """Set the database that is open aside, unless it is another by now; later calls make a fresh one.

        Raises:
            ForwarderError: it can't be moved.
        """
        with self._step():
            self._release()
            self._set_aside()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the other threads out.

        Raises:
            TryAgainError: one of them has not gone within the time limit, which goes on counting inside.
        """
        outer = self._enter()
        try:
            yield
        finally:
            self._leave(outer)

    def _enter(self) -> float | None:
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
        outer = self._deadline
        self._deadline = outer or deadline
        return outer

    def _leave(self, outer: float | None) -> None:
        if outer is None and self._writer_lock.is_taken:
            self._writer_lock.let_go()
        self._deadline = outer
        self._lock.release()

    def turn(self, most_s: float = math.inf) -> AbstractContextManager[None]:
        """Keep the writers of other processes out, too, waiting *most_s* for them; inside `alone`."""
        return self._writer_lock.held(min(self._left_s(), most_s))

    # Over forks

    @property
    def has_crossed(self) -> bool:
        """Whether its connection is that of the process that has forked this one."""
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

    # Inside `alone`

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Keep out the other threads, and a signal handler during what it has interrupted.

        Raises:
            TryAgainError: it is such a handler that calls.
        """
        outer = self._enter()
        was_busy = self._is_busy
        try:
            self._is_busy = True
            if was_busy:
                raise TryAgainError(
                    f"this thread is opening, closing or writing to the queue in {self.path} now",
                    "Nothing was stored; don't use a queue in signal handlers",
                )
            yield
        except (sqlite3.Error, OSError) as error:
            raise explained(error, self.path) from error
        finally:
            self._is_busy = was_busy
            self._leave(outer)

    def _left_s(self) -> float:
        """How long may still be waited."""
        return max((self._deadline or 0.0) - time.monotonic(), 0.0)

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
        with translated(self.path):
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
        self._connected_by = os.getpid()
        # Opening it has made the log, unless that was there.
        self.files = Files.at(self.path)._replace(database=self.files.database)
        return connection

    def _current(self) -> sqlite3.Connection:
        """The connection, opened again if the files at the path are others by now."""
        # What is set aside goes on taking commits from whoever has it open, without an error.
        if self._connection is not None and self.is_replaced():
            self._let_go()
        return self._connected()

    def _release(self) -> None:
        """Close the connection."""
        if self._connection is None or self.has_crossed:
            return
        if self.is_replaced():
            with self.turn():
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
        self.orphaned = lost_files.let_go(connection, self.path, before) or self.orphaned
        # SQLite keeps the index of a database for all connections of a process: none may be left.
        for other in forks.registered():
            if isinstance(other, Database) and other is not self and other.files == before:
                other.step_back()
        now = Files.at(self.path)
        if (
            now.database == before.database
            and now.log_index != before.log_index
            and lost_files.is_open(before.log_index)
        ):
            raise TryAgainError(
                f"the queue in {self.path} was replaced, and this program has its old files open elsewhere",
                "Try again; if that does not help, restart the program",
            )

    def step_back(self) -> None:
        """Close the connection if nobody uses it, for the sake of another database at the path."""
        if self._lock.acquire(blocking=False):
            try:
                if self._connection is not None and not self._is_busy:
                    connection, self._connection = self._connection, None
                    lost_files.let_go(connection, self.path, self.files)
            finally:
                self._lock.release()

    def _set_aside(self) -> None:
        # Where the disk can't read for a moment, SQLite may take the database for damaged.
        lost_files.read_plainly(self.path)
        with self.turn():
            if self.files.has_database_at(self.path) and (not self._is_empty or is_emptied(self.path)):
                set_aside(self.path)


def _at_exit() -> None:
    # Closed by Python's own end, they would take the log of another database at the path with them.
    for one in forks.registered():
        if isinstance(one, Database) and one.is_replaced():
            one.step_back()


atexit.register(_at_exit)


def _refuse_crossed(path: str) -> None:
    for one in forks.registered():
        if isinstance(one, Database) and one.path == path and one.has_crossed:
            raise StorageError(
                f"this process was forked while the queue in {path} was in use, and can't use it",
                "Fork by os.fork() between calls, or before the queue is first used",
            )
