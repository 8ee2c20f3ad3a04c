"""The databases of this process, how they get over a fork, and what is saved at its end.

A SQLite connection must not cross a fork, and SQLite's record of locks, which all connections of a process to
a file share, neither: a child that takes it for its own writes without a lock. The rules:

- Each connection is on a list from before its file is opened until it is closed (`connection`).
- A fork takes the locks of all databases, so that other threads are between calls, and closes what is on the
  list. Until it is over nothing is opened, by other threads for the locks, by signal handlers for
  `is_under_way`.
- A call that a signal handler has interrupted to fork finds its connection closed, and stores nothing.
- What could not be closed is nobody's in the child: the queue can't be used there.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from dataclasses import dataclass, field
from itertools import compress, repeat
from types import FrameType
from typing import Protocol

from forwarder.errors import ForwarderError, TryAgainError
from forwarder.spool.connection import connections
from forwarder.spool.directory import Files

_RLock = type(threading.RLock())


class Open(Protocol):
    """A database that can be closed and opened again while its lock is held."""

    path: str
    files: Files
    tran_lock: threading.RLock

    @property
    def is_to_save(self) -> bool:
        """Whether files are open that were replaced: what only they hold goes with them."""

    def close(self) -> None:
        """Close all files, when what only they hold is safe."""

    def step_back(self) -> None:
        """Close the connection if nobody uses it, for the sake of another database at the path."""

    def disconnect(self) -> None:
        """Close all files, as this process is about to be forked."""

    def renew(self) -> None:
        """Begin anew if this is a forked child, with locks that nobody holds."""


@dataclass(eq=False, slots=True)
class _Fork:
    """One that is under way: the frame that has asked for it, and the locks it holds."""

    caller: FrameType | None
    locks: list[threading.RLock] = field(default_factory=list)


class _Thread(threading.local):
    def __init__(self) -> None:
        # Several: a signal handler may fork amid a fork.
        self.forks: list[_Fork] = []


_all: weakref.WeakValueDictionary[int, Open] = weakref.WeakValueDictionary()
_forking = threading.RLock()
_thread = _Thread()


def register(database: Open) -> None:
    """Have it closed before forks, for as long as it lives. To be called before its files are opened.

    Raises:
        TryAgainError: called by a signal handler amid a fork.
    """
    if is_under_way():
        raise TryAgainError("this thread is forking just now", "Call again when it has done so")
    # While another thread forks, nothing is opened that it would not know of.
    with _forking:
        _all[id(database)] = database


def is_under_way() -> bool:
    """Whether this thread is forking, and it is a signal handler that asks."""
    return bool(_thread.forks)


def open_at(path: str) -> list[Open]:
    """Those of the queue in the directory *path*."""
    return [database for database in _living() if database.path == path]


def acquire(lock: threading.RLock, held: list[threading.RLock], timeout_s: float = -1) -> None:
    """Take a lock and put it into *held*, if that is possible in time, whatever a signal handler raises."""
    # All of it inside C: there is no moment at which it is held, and that is not written down.
    held.extend(compress((lock,), map(lock.acquire, (True,), (timeout_s,))))


def release(held: list[threading.RLock]) -> None:
    """Give back the locks in *held*, and take them out of it; the same way."""
    any(map(_RLock.release, map(held.pop, repeat(-1, len(held)))))


def _living() -> list[Open]:
    # Others may register meanwhile: a copy in one step, where iteration would fail.
    return [database for reference in _all.valuerefs() if (database := reference()) is not None]


def _before_fork() -> None:
    caller = sys._getframe().f_back
    fork = _mine(caller)
    if fork is None:
        fork = _Fork(caller)
        _thread.forks.append(fork)
    errors = _surely_acquire(_forking, fork.locks)
    databases = _living()
    # Of some the database is gone, or being closed by another thread for that.
    opened = connections()
    for lock in [database.tran_lock for database in databases] + [one.lock for one in opened]:
        errors += _surely_acquire(lock, fork.locks)
    for database in databases:
        try:
            database.disconnect()
        except BaseException as error:
            errors.append(error)
    owned = [database.tran_lock for database in databases]
    for connection in connections():
        if connection.lock not in owned:
            connection.close()
    if errors:
        raise errors[0]  # which Python only prints


def _surely_acquire(lock: threading.RLock, held: list[threading.RLock]) -> list[BaseException]:
    """Take a lock; returns what signal handlers have raised meanwhile. Python would fork all the same."""
    errors: list[BaseException] = []
    while lock not in held:
        try:
            acquire(lock, held)
        except BaseException as error:
            errors.append(error)
    return errors


def _mine(caller: FrameType | None) -> _Fork | None:
    """The fork under way that *caller* has asked for."""
    return _thread.forks[-1] if _thread.forks and _thread.forks[-1].caller is caller else None


def _after_in_parent() -> None:
    fork = _mine(sys._getframe().f_back)
    if fork:
        release(fork.locks)
        _thread.forks.pop()


def _after_in_child() -> None:
    global _forking
    _forking = threading.RLock()
    # All: a signal handler's child need not come back to the fork that the handler has interrupted.
    _thread.forks.clear()
    for database in _living():
        database.renew()


def _at_exit() -> None:
    errors = []
    for database in _living():
        if database.is_to_save:
            try:
                database.close()
            except ForwarderError as error:
                errors.append(error)
    if errors:
        raise errors[0]  # which Python prints


atexit.register(_at_exit)
# Twice, and the second finds nothing left to do: a signal handler may raise at the entrance to the first.
for _ in range(2):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
