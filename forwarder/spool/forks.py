"""The databases that this process has open, and how they get over a fork.

A SQLite connection must not cross a fork, and SQLite's record of locks, which all connections of a process to
a file share, neither: so all are closed before, between transactions, and opened again on both sides.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Open(Protocol):
    """A database that can be closed and opened again while its lock is held."""

    path: str
    tran_lock: threading.RLock

    def reopen(self) -> None:
        """Close the connection."""

    def disconnect(self) -> None:
        """Close all files."""

    def renew(self) -> None:
        """Begin anew in a forked child, with locks that nobody holds."""


_all: weakref.WeakValueDictionary[int, Open] = weakref.WeakValueDictionary()
_forking = threading.RLock()
# What each fork that is under way has closed: a signal handler may fork amid a fork.
_held: list[list[Open]] = []


def register(database: Open) -> None:
    """Have it closed before forks, for as long as it lives. To be called before its files are opened."""
    # While another thread forks, nothing is opened that it would not know of.
    with _forking:
        _all[id(database)] = database


def open_at(path: str) -> list[Open]:
    """Those of the queue in the directory *path*."""
    return [database for database in _living() if database.path == path]


def acquire(lock: threading.RLock, got: list[bool], timeout_s: float = -1) -> None:
    """Take a lock, and put into *got* whether that was possible, whatever a signal handler raises."""
    # All of it inside C: there is no moment at which it is held, and that is not written down.
    got.extend(map(lock.acquire, (True,), (timeout_s,)))


def _living() -> list[Open]:
    # Others may register meanwhile: a copy in one step, where iteration would fail.
    return [database for reference in _all.valuerefs() if (database := reference()) is not None]


def _before_fork() -> None:
    errors = _surely_acquire(_forking)
    held: list[Open] = []
    _held.append(held)
    for database in _living():
        errors += _surely_acquire(database.tran_lock)
        held.append(database)
        try:
            database.disconnect()
        except BaseException as error:
            errors.append(error)
    if errors:
        raise errors[0]  # which Python only prints


def _surely_acquire(lock: threading.RLock) -> list[BaseException]:
    """Take a lock; returns what signal handlers have raised meanwhile. Python would fork all the same."""
    errors: list[BaseException] = []
    got: list[bool] = []
    while not got:
        try:
            acquire(lock, got)
        except BaseException as error:
            errors.append(error)
    return errors


def _after_in_parent() -> None:
    for database in _held.pop():
        database.tran_lock.release()
    _forking.release()


def _after_in_child() -> None:
    global _forking
    for database in _held.pop():
        database.renew()
    _forking = threading.RLock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
