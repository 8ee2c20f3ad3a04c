"""Whether the database is sound and the books balance."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass

from forwarder.errors import ForwarderError
from forwarder.spool import schema
from forwarder.spool.records import Selection
from forwarder.spool.sqlite_errors import translated
from forwarder.spool.view import View

CHUNK_IDS = 100_000
INTEGRITY_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found."""

    name: str
    ok: bool
    detail: str


def check(view: View) -> list[Finding]:
    """Check the database's integrity, then the totals against the rows that are there.

    Rows are counted in short reads, while the daemon may go on; the count is then held between the
    totals before and after.
    """
    findings = [_check_integrity(view.connection)]
    for name, examine in (("books: queue", _check_waiting), ("books: dead letters", _check_dead_letters)):
        try:
            with translated(view.path):
                findings.append(examine(view))
        except ForwarderError as error:
            findings.append(Finding(name, False, str(error)))
    return findings


def _check_integrity(connection: sqlite3.Connection) -> Finding:
    deadline = time.monotonic() + INTEGRITY_LIMIT_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
    try:
        faults = [row[0] for row in connection.execute("PRAGMA quick_check(5)")]
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "") != "SQLITE_INTERRUPT":
            return Finding("integrity", False, str(error))
        return Finding("integrity", True, f"no fault found in {INTEGRITY_LIMIT_S:g} s; the rest was not read")
    except sqlite3.DatabaseError as error:
        return Finding("integrity", False, str(error))
    finally:
        connection.set_progress_handler(None, 0)
    return Finding("integrity", faults == ["ok"], "; ".join(faults))


def _check_waiting(view: View) -> Finding:
    before = view.figures()
    (newest,) = view.connection.execute(f"SELECT {schema.SEQUENCE}").fetchone()
    (oldest,) = view.connection.execute(f"SELECT coalesce(min(_id), 1) FROM {schema.TABLE}").fetchone()
    counted = 0
    for first in range(oldest, newest + 1, CHUNK_IDS):
        (rows,) = view.connection.execute(
            f"SELECT count(*) FROM {schema.TABLE} WHERE _id BETWEEN ? AND ?",
            (first, min(first + CHUNK_IDS - 1, newest)),
        ).fetchone()
        counted += rows
    after = view.figures()
    # Of the rows counted, those settled meanwhile may be missing; those added between the two first
    # reads may be there on top.
    left = (after.delivered - before.delivered) + (after.dead_lettered - before.dead_lettered)
    left += after.deleted - before.deleted
    added = after.accepted - before.accepted
    ok = before.waiting - left <= counted <= before.waiting + added
    detail = (
        f"accepted {before.accepted} = delivered {before.delivered} + dead-lettered {before.dead_lettered}"
        f" + deleted {before.deleted} + waiting {before.waiting}; {counted} rows are there"
    )
    return Finding("books: queue", ok, detail)


def _check_dead_letters(view: View) -> Finding:
    before = view.figures()
    counted = view.count_dead_letters(Selection())
    after = view.figures()
    # Of those there before, some may have been retried or deleted meanwhile; others may have come.
    left = (after.retried - before.retried) + (after.discarded - before.discarded)
    added = after.dead_lettered - before.dead_lettered
    ok = before.dead_letters - left <= counted <= before.dead_letters + added
    detail = (
        f"dead-lettered {before.dead_lettered} = retried {before.retried} + deleted {before.discarded}"
        f" + there now {before.dead_letters}; {counted} rows are there"
    )
    return Finding("books: dead letters", ok, detail)
