"""When files of the database are deleted or replaced while it is open: what is only in those is kept.

Deleting ``data.db-wal`` or ``-shm`` looks harmless and is not: who has them open goes on with files that have
no name, and who comes later does not see them. How SQLite goes about its log and the log's index:
sqlite.org/walformat.html.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import struct
from contextlib import closing, suppress

from forwarder.errors import ForwarderError
from forwarder.spool import schema
from forwarder.spool.directory import DATABASE, Files, Identity, identity_of, sync_directory
from forwarder.spool.set_aside import has_been_set_aside, new_directory
from forwarder.spool.turnstile import open_shared

# struct flock (fcntl(2), Linux), and the bytes of a database that SQLite's readers lock.
_FLOCK = "hhqqi"
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510
_UNREADABLE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_READ", "SQLITE_IOERR_SHORT_READ")


def keep(connection: sqlite3.Connection, path: str, opened: Files) -> None:
    """Keep what only *connection* can read, as its files are no more those in the directory *path*.

    In the database itself where that can be done; else in a copy beside the queue, for ``salvage``. The
    caller holds the turnstile.

    Raises:
        sqlite3.Error, OSError: there is no room for it.
    """
    now = Files.at(path)
    if now.database != opened.database:
        # With other names they were moved, by us or by a person who knows where to.
        if not _has_name(opened.database) or (_size(opened.log) and not _has_name(opened.log)):
            _copy_aside(connection, path)
        return
    if now.log == opened.log or not _size(opened.log):
        return  # who opens the log that is there reads all of it, and makes the index anew
    if now.index == opened.index:
        if _bytes(opened.index, 32, 8) != _bytes(opened.log, 16, 8):
            return  # the index speaks of the new log: what was in the old one is in the database
    elif (now.log, now.index) != (None, None):
        _copy_aside(connection, path)  # somebody has begun anew without what is in the old log
        return
    with suppress(sqlite3.Error):
        is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not is_busy:
            return
    _copy_aside(connection, path)


def leave_log_alone(opened: Files) -> None:
    """Let the last connection of this process to the database leave the log as it is when it is closed.

    By an index that is out of date SQLite would write old pages into the database, and then delete the log,
    with what others have put there.
    """
    # SQLite asks for all its readers' bytes then. This kind of lock keeps out even its own process, and goes
    # with the descriptor, which SQLite closes.
    asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
    for fd in _descriptors(opened.database):
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, asked)


def not_saved(connection: sqlite3.Connection, path: str, error: ForwarderError) -> ForwarderError:
    """What a person is told when `keep` has failed with *error*; the files stay open."""
    return type(error)(
        f"files of the queue in {path} were deleted or replaced while this program had them open, and what is"
        f" only in the old ones ({_held(connection)}) can't be saved yet: {error.what}",
        "They stay open for another try. If this program ends before, it is lost",
    )


def _held(connection: sqlite3.Connection) -> str:
    """How many events a database holds, in words."""
    try:
        waiting, dead = connection.execute(
            f"SELECT (SELECT count(*) FROM {schema.TABLE}), (SELECT count(*) FROM dead_letters)"
        ).fetchone()
    except sqlite3.Error:
        return "an unknown number of events"
    return f"{waiting:,} events, {dead:,} dead letters"


def is_open(identity: Identity | None) -> bool:
    """Whether this process has that file open."""
    return bool(_descriptors(identity))


def _copy_aside(connection: sqlite3.Connection, path: str) -> None:
    try:
        content = f"SELECT EXISTS (SELECT 1 FROM {schema.TABLE}) OR EXISTS (SELECT 1 FROM dead_letters)"
        books = f"SELECT queue_id, {schema.SEQUENCE}, delivered, dead_lettered, deleted FROM ledger"
        if not connection.execute(content).fetchone()[0]:
            return
        # Each process that has it open comes by here.
        mark = "-".join(map(str, connection.execute(books).fetchone()))
    except sqlite3.Error:
        mark = ""
    if mark and has_been_set_aside(path, mark):
        return
    target = new_directory(path)
    file = os.path.join(target, DATABASE)
    try:
        os.close(open_shared(file))
        with closing(sqlite3.connect(file)) as copy:
            connection.backup(copy)
    except (sqlite3.Error, OSError) as error:
        shutil.rmtree(target)
        if getattr(error, "sqlite_errorname", "").startswith(_UNREADABLE):
            return
        raise
    if mark:
        os.rename(target, f"{target}-{mark}")
    sync_directory(path)


def _has_name(identity: Identity | None) -> bool:
    return all(os.fstat(fd).st_nlink for fd in _descriptors(identity))


def _size(identity: Identity | None) -> int:
    return max((os.fstat(fd).st_size for fd in _descriptors(identity)), default=0)


def _bytes(identity: Identity | None, start: int, count: int) -> bytes:
    # By SQLite's own descriptors: to open a file again and close it would drop all its locks.
    return next((os.pread(fd, count, start) for fd in _descriptors(identity)), b"")


def _descriptors(identity: Identity | None) -> list[int]:
    """Those by which this process has a file open, though it may have no name any more."""
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            if identity_of(os.fstat(fd)) == identity:
                found.append(fd)
    return found
