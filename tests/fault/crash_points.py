"""Runs the forwarder's own command and kills it by SIGKILL at a named point, at the nth pass.

::

    python tests/fault/crash_points.py POINT NTH -- run
    python tests/fault/crash_points.py                      # lists the points

The product knows nothing of this: functions are wrapped and SQLite is listened to from here, in the process
that is to die. ``CRASH_MARK`` names a file that is written right before the kill. A command that ends in
``.py`` is run as a program in place of the forwarder's.
"""

from __future__ import annotations

import functools
import importlib
import os
import runpy
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BEFORE, AFTER = "before", "after"
MOST_S = 30


@dataclass(frozen=True)
class Point:
    """Before or after a function (``module:qualified.name``), or an SQL statement that begins like this.

    With *behind* only statements count that follow one that begins like that on the same connection.
    """

    moment: str
    where: str
    behind: str = ""

    @property
    def is_statement(self) -> bool:
        """Whether it is a place in SQL, not in Python."""
        return ":" not in self.where


INSERT = "INSERT INTO ack_queue_default"
# In the queue of any kind.
PUT = "INSERT INTO ack_queue_"
MARKED = "UPDATE ack_queue_"
BURY = "INSERT INTO dead_letters"
LOG = "INSERT INTO deliveries"
SWEPT = "UPDATE ledger SET deleted = deleted"
MISSED = "UPDATE ledger SET deleted = coalesce"
VACUUM = "PRAGMA incremental_vacuum"
COUNTED = "UPDATE ledger SET delivered"
RETRIED = "UPDATE ledger SET retried"
DISCARDED = "UPDATE ledger SET discarded"
SALVAGED = "INSERT OR REPLACE INTO salvages"

POINTS = {
    # Any statement at all: for a new queue, statement by statement.
    "statement": Point(BEFORE, ""),
    "make-directory-made": Point(AFTER, "forwarder.spool.sqlite.directory:os.mkdir"),
    "make-file-made": Point(BEFORE, "forwarder.spool.sqlite.database:sync_directory"),
    "make-file-opened": Point(BEFORE, "forwarder.spool.sqlite.lock:os.fchmod"),
    "make-reserve": Point(BEFORE, "forwarder.spool.sqlite.room:fill_reserve"),
    "make-reserve-file-made": Point(BEFORE, "forwarder.spool.sqlite.room:os.posix_fallocate"),
    "make-reserve-laid": Point(AFTER, "forwarder.spool.sqlite.room:fill_reserve"),
    "aside-made": Point(AFTER, "forwarder.spool.sqlite.set_aside:new_directory"),
    "aside-linking": Point(BEFORE, "forwarder.spool.sqlite.set_aside:os.link"),
    "aside-syncing": Point(BEFORE, "forwarder.spool.sqlite.set_aside:sync_directory"),
    "aside-unlinking": Point(BEFORE, "forwarder.spool.sqlite.set_aside:os.unlink"),
    "aside-done": Point(AFTER, "forwarder.spool.sqlite.set_aside:set_aside"),
    "own-examined": Point(AFTER, "forwarder.salvage.rescue:_is_damaged"),
    "own-aside": Point(AFTER, "forwarder.spool.sqlite.database:Database.replace_damaged"),
    "salvage-noted": Point(BEFORE, SALVAGED),
    "salvage-commit": Point(BEFORE, "COMMIT", SALVAGED),
    "salvage-committed": Point(AFTER, "COMMIT", SALVAGED),
    "salvage-marking": Point(BEFORE, "forwarder.spool.sqlite.set_aside:os.rename"),
    "salvage-marked": Point(AFTER, "forwarder.spool.sqlite.set_aside:os.rename"),
    "accept-inserting": Point(BEFORE, INSERT),
    "accept-commit": Point(BEFORE, "COMMIT", INSERT),
    "accept-committed": Point(AFTER, "COMMIT", INSERT),
    "accept-told": Point(AFTER, "forwarder.spool.sqlite.producer:Producer.append"),
    "intake-read": Point(BEFORE, "forwarder.intake.door:Door.answer"),
    "intake-submitted": Point(AFTER, "forwarder.intake.writer:Writer.submit"),
    "intake-inserting": Point(BEFORE, PUT),
    "intake-commit": Point(BEFORE, "COMMIT", PUT),
    "intake-committed": Point(AFTER, "COMMIT", PUT),
    "intake-passed-on": Point(BEFORE, "forwarder.intake.writer:Writer._settle"),
    "intake-answering": Point(BEFORE, "forwarder.intake.connection:Connection._respond"),
    "intake-answered": Point(AFTER, "forwarder.intake.connection:Connection._respond"),
    "mark": Point(BEFORE, "forwarder.spool.sqlite.consumer:Consumer.mark_sent"),
    "mark-updating": Point(BEFORE, MARKED),
    "mark-commit": Point(BEFORE, "COMMIT", MARKED),
    "mark-committed": Point(AFTER, "COMMIT", MARKED),
    "marked": Point(AFTER, "forwarder.spool.sqlite.consumer:Consumer.mark_sent"),
    "start-locked": Point(AFTER, "forwarder.spool.sqlite.presence:Presence.__init__"),
    "start-announced": Point(AFTER, "forwarder.spool.sqlite.presence:Presence.announce"),
    "start-queue-opened": Point(AFTER, "forwarder.spool.sqlite.database:Database.connect"),
    "start-probing": Point(BEFORE, "COMMIT"),
    "start-probed": Point(AFTER, "COMMIT"),
    "start-consumer": Point(AFTER, "forwarder.spool.sqlite.consumer:Consumer.__init__"),
    "start-ready": Point(AFTER, "forwarder.service.daemon:Daemon.start"),
    "start-noticed": Point(AFTER, "forwarder.delivery.backlog:Backlog.notice"),
    "tell-state": Point(BEFORE, "forwarder.spool.sqlite.presence:json.dump"),
    "tell-state-written": Point(BEFORE, "forwarder.spool.sqlite.presence:os.replace"),
    "tell-state-told": Point(AFTER, "forwarder.spool.sqlite.presence:os.replace"),
    "claim": Point(BEFORE, "forwarder.spool.sqlite.consumer:Consumer.claim"),
    "claimed": Point(AFTER, "forwarder.spool.sqlite.consumer:Consumer.claim"),
    "post": Point(BEFORE, "forwarder.delivery.wire.client:Client.post"),
    "posted": Point(AFTER, "forwarder.delivery.wire.client:Client.post"),
    "settle": Point(BEFORE, "forwarder.spool.sqlite.consumer:Consumer.settle"),
    "settle-deleting": Point(BEFORE, "DELETE FROM ack_queue_default"),
    "settle-deleted": Point(BEFORE, BURY),
    "settle-one-buried": Point(BEFORE, BURY, BURY),
    "settle-buried": Point(BEFORE, COUNTED),
    "settle-counted": Point(BEFORE, LOG),
    "settle-logged": Point(BEFORE, "DELETE FROM deliveries"),
    "settle-commit": Point(BEFORE, "COMMIT", LOG),
    "settle-committed": Point(AFTER, "COMMIT", LOG),
    "settled": Point(AFTER, "forwarder.spool.sqlite.consumer:Consumer.settle"),
    "requeued": Point(AFTER, "forwarder.delivery.deferred:Deferred.add_failed"),
    "halved": Point(AFTER, "forwarder.delivery.batch:Batch.halves"),
    "suspect-held": Point(AFTER, "forwarder.delivery.deferred:Deferred.isolate"),
    "suspect-asked-again": Point(AFTER, "forwarder.delivery.deferred:Deferred.take"),
    "sweep": Point(BEFORE, SWEPT),
    "sweep-commit": Point(BEFORE, "COMMIT", SWEPT),
    "sweep-committed": Point(AFTER, "COMMIT", SWEPT),
    "missing": Point(BEFORE, MISSED),
    "missing-commit": Point(BEFORE, "COMMIT", MISSED),
    "missing-committed": Point(AFTER, "COMMIT", MISSED),
    "retry-inserted": Point(BEFORE, "DELETE FROM dead_letters"),
    "retry-moved": Point(BEFORE, RETRIED),
    "retry-commit": Point(BEFORE, "COMMIT", RETRIED),
    "retry-committed": Point(AFTER, "COMMIT", RETRIED),
    "discard-deleting": Point(BEFORE, "DELETE FROM dead_letters"),
    "discard-deleted": Point(BEFORE, DISCARDED),
    "discard-commit": Point(BEFORE, "COMMIT", DISCARDED),
    "discard-committed": Point(AFTER, "COMMIT", DISCARDED),
    "vacuum": Point(BEFORE, VACUUM),
    "vacuum-commit": Point(BEFORE, "COMMIT", VACUUM),
    "vacuum-committed": Point(AFTER, "COMMIT", VACUUM),
    "checkpoint": Point(BEFORE, "PRAGMA wal_checkpoint"),
    "checkpointed": Point(AFTER, "PRAGMA wal_checkpoint"),
    "tidied": Point(AFTER, "forwarder.spool.sqlite.consumer:Consumer._tidy"),
    "reserve-release": Point(BEFORE, "forwarder.spool.sqlite.room:release_reserve"),
    "reserve-released": Point(AFTER, "forwarder.spool.sqlite.room:release_reserve"),
    "reserve-filled": Point(AFTER, "forwarder.spool.sqlite.room:fill_reserve"),
}


def resolve(point: Point) -> tuple[Any, str]:
    """The object that holds the function at *point*, and the function's name in it.

    Raises:
        LookupError: there is no such function any more.
    """
    module, _, qualified = point.where.partition(":")
    *holders, name = qualified.split(".")
    try:
        holder = functools.reduce(getattr, holders, importlib.import_module(module))
        # Not what is inherited: that would be another function's place.
        known = name in vars(holder)
    except (ImportError, AttributeError):
        known = False
    if not known:
        raise LookupError(f"no crash point at {point.where}")
    return holder, name


class _Executioner:
    """Counts the passes of a point; at the nth the process is dead."""

    def __init__(self, name: str, nth: int) -> None:
        self._name, self._left = name, nth
        self._mark = os.environ.get("CRASH_MARK")
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
            if self._mark:
                with open(self._mark, "w", encoding="utf-8") as file:
                    file.write(self._name)
            os.kill(os.getpid(), signal.SIGKILL)


def arm(name: str, nth: int) -> None:
    """Have this process killed at the *nth* pass of the point *name*."""
    point, strike = POINTS[name], _Executioner(name, nth)
    if point.is_statement:
        _listen(point, strike)
    else:
        holder, function = resolve(point)
        setattr(holder, function, _wrapped(getattr(holder, function), point.moment, strike))


def _wrapped(function: Callable[..., Any], moment: str, strike: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        if moment == BEFORE:
            strike()
        result = function(*arguments, **options)
        if moment == AFTER:
            strike()
        return result

    return wrapper


def _listen(point: Point, strike: Callable[[], None]) -> None:
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._is_near = not point.behind
            # Called before each run of a statement, of executemany's each one too.
            self.set_trace_callback(self._begins)

        def _begins(self, statement: str) -> None:
            if point.moment == BEFORE and self._is_near and statement.startswith(point.where):
                strike()
            self._is_near = self._is_near or statement.startswith(point.behind)

        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            cursor = super().execute(statement, *values)
            if point.moment == AFTER and self._is_near and statement.startswith(point.where):
                strike()
            return cursor

    def listening(*arguments: Any, **options: Any) -> sqlite3.Connection:
        # Not to those that only look.
        return (
            connect(*arguments, **options)
            if "uri" in options
            else connect(*arguments, factory=Connection, **options)
        )

    sqlite3.connect = listening  # type: ignore[assignment]


def run(arguments: list[str]) -> None:
    """The forwarder's command, or the program that is named in its place."""
    if arguments[0].endswith(".py"):
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
        return
    from forwarder.cli import main

    main(arguments)


def prepare(name: str, nth: str, umask: str) -> None:
    """What a process that is to die does before its command."""
    # Whatever goes wrong, nobody is left behind: SIGALRM ends the process.
    signal.alarm(MOST_S)
    os.umask(int(umask))
    if name:
        arm(name, int(nth))
    if sys.argv[1].endswith(".py"):
        run(sys.argv[1:])
        sys.exit()


if __name__ == "__main__":
    if len(sys.argv) > 4 and sys.argv[3] == "--":
        arm(sys.argv[1], int(sys.argv[2]))
        run(sys.argv[4:])
    else:
        for name, point in POINTS.items():
            behind = f", behind {point.behind!r}" if point.behind else ""
            print(f"{name:24}{point.moment} {point.where or 'any statement'}{behind}")
