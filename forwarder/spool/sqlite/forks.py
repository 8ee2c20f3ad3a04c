"""No SQLite connection crosses a fork.

All connections of a process to a file share SQLite's record of locks. It must not cross a fork either: a
child would take these locks for its own and write without a lock (sqlite.org/howtocorrupt.html, 2.6). So all
connections are closed before a fork, and opened again on both sides when needed.
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
    """Notify *one* of forks while it lives. Call this before it opens a file."""
    with _registering:
        _all[id(one)] = one


def registered() -> list[Database]:
    """The databases that live."""
    # Others may register meanwhile: this copies in one step, where iteration would fail.
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
