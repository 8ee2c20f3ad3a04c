"""A pause that outlives the database it was asked for in.

It stands there in a row. When a damaged database is set aside, a file says so until the fresh one has such a
row: killed in between, nobody delivers what a person has held back.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress

from forwarder.spool import lost_files
from forwarder.spool.directory import DATABASE, LOG, Files, quoted, size_of
from forwarder.spool.turnstile import open_shared

PAUSED = "paused"
# Of what is read without SQLite, while others wait: 8 MiB, which the log seldom exceeds, take 0.2 s.
_MOST_LOG_BYTES = 128 << 20


def keep(path: str, otherwise: bool) -> None:
    """Note whether the database in *path*, about to be set aside, says that delivery is paused.

    The caller holds the turnstile, and has no connection open. Never fails: what can't be read, or noted, is
    passed over.

    Args:
        otherwise: What to believe when it can't be read any more.
    """
    # SQLite would delete the log of an empty file.
    found = _by_sqlite(path) if size_of(path, DATABASE) else None
    if found is None:
        found = _by_pages(path)
    if otherwise if found is None else found:
        with suppress(OSError):
            os.close(open_shared(os.path.join(path, PAUSED)))
    elif found is not None:
        forget(path)


def is_kept(path: str) -> bool:
    """Whether the database that is made in *path* now is to begin with a pause."""
    return os.path.lexists(os.path.join(path, PAUSED))


def forget(path: str) -> None:
    """The database says so itself by now, or delivery is resumed."""
    with suppress(OSError):
        os.unlink(os.path.join(path, PAUSED))


def _by_sqlite(path: str) -> bool | None:
    file = os.path.join(path, DATABASE)
    try:
        with closing(sqlite3.connect(f"file:{quoted(file)}?mode=ro", uri=True, timeout=1.0)) as connection:
            row = connection.execute("SELECT paused FROM control").fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else bool(row[0])


def _by_pages(path: str) -> bool | None:
    # To close a file that SQLite has open in this process would drop its locks.
    if lost_files.is_open(Files.at(path).database) or size_of(path, LOG) > _MOST_LOG_BYTES:
        return None
    from forwarder.salvage.paused import paused

    try:
        return paused(os.path.join(path, DATABASE))
    except OSError:
        return None
