"""No SQLite connection crosses a fork.

SQLite's record of locks, which all connections of a process to a file share, must not either: a child that
takes it for its own writes without a lock (sqlite.org/howtocorrupt.html, 2.6). So all are closed before a
fork, and opened again on both sides when they are needed.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forwarder.spool.sqlite.database import Database


_all: weakref.WeakValueDictionary[int, Database] = weakref.WeakValueDictionary()
_held: list[Database] = []
_registering = threading.Lock()


def register(one: Database) -> None:
    """Have *one* told of forks for as long as it lives; to be called before it opens a file."""
    with _registering:
        _all[id(one)] = one


def registered() -> list[Database]:
    """Those that live."""
    # Others may register meanwhile: a copy in one step, where iteration would fail.
    return [one for reference in _all.valuerefs() if (one := reference()) is not None]


def _before() -> None:
    _registering.acquire()
    for one in registered():
        one.before_fork()
        _held.append(one)


def _after(in_child: bool) -> None:
    global _registering
    for one in _held:
        one.after_fork(in_child=in_child)
    _held.clear()
    if in_child:
        _registering = threading.Lock()
    else:
        _registering.release()


os.register_at_fork(
    before=_before, after_in_parent=lambda: _after(False), after_in_child=lambda: _after(True)
)
