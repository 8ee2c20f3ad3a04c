"""When files of the database are deleted or replaced while it is open.

Deleting ``data.db-wal`` or ``-shm`` looks harmless and is not: who has them open goes on with files that have
no name, and who comes later does not see them. What is only in those is lost, and said. How SQLite goes
about its log and the log's index: sqlite.org/walformat.html.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
from contextlib import suppress

from forwarder.spool.sqlite import schema
from forwarder.spool.sqlite.directory import DATABASE, LOG, Files, Identity, identity_of
from forwarder.spool.sqlite.set_aside import has_been_set_aside

# struct flock (fcntl(2), Linux), and the bytes of a database that SQLite's readers lock.
_FLOCK = "hhqqi"
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510
_PIECE_BYTES = 1 << 20


def let_go(connection: sqlite3.Connection, path: str, opened: Files) -> str:
    """Close *connection*, as its files are no more those in the directory *path*.

    The caller holds the writer lock.

    Returns:
        what only its files hold, for a person; "": nothing.
    """
    now = Files.at(path)
    if has_been_set_aside(path, opened.database):
        held = ""
    elif now.database != opened.database:
        held = _held(connection)
    else:
        if now.log is None and now.log_index in (None, opened.log_index):
            # Nobody has begun again: what is only in the log can still go where it belongs.
            with suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # Who opens a log that is still there reads all of it.
        held = "what was accepted last" if now.log != opened.log and _size(opened.log) else ""
    _leave_log_alone(opened)
    connection.close()
    if held:
        import logging

        logging.getLogger("forwarder").error(
            "Files of the queue in %s were deleted, moved or replaced while this program had them open;"
            " only the old ones hold %s",
            path,
            held,
        )
    return held


def read_plainly(path: str) -> None:
    """Read the database in *path* and its log to their ends, as any file.

    Raises:
        OSError: the disk can't read them now, which says nothing about their content.
    """
    opened = Files.at(path)
    for name, identity in ((DATABASE, opened.database), (LOG, opened.log)):
        # To close a file that SQLite has open in this process would drop its locks.
        there = [fd for fd in _descriptors(identity) if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH]
        with suppress(FileNotFoundError):
            # A pipe, which a person may have put there, is not waited for.
            how = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = there[0] if there else os.open(os.path.join(path, name), how)
            try:
                at = 0
                while piece := os.pread(fd, _PIECE_BYTES, at):
                    at += len(piece)
            finally:
                if not there:
                    os.close(fd)


def is_open(identity: Identity | None) -> bool:
    """Whether this process has that file open."""
    return bool(_descriptors(identity))


def _held(connection: sqlite3.Connection) -> str:
    """What a database holds, in words; "": nothing."""
    try:
        waiting, dead = connection.execute(
            f"SELECT (SELECT count(*) FROM {schema.TABLE}), (SELECT count(*) FROM dead_letters)"
        ).fetchone()
    except sqlite3.Error:
        return "an unknown number of events"
    return f"{waiting:,} events and {dead:,} dead letters" if waiting or dead else ""


def _leave_log_alone(opened: Files) -> None:
    """Let the last connection of this process to the database leave the log as it is when it is closed.

    By an index that is out of date SQLite would write old pages into the database, and then delete the log
    that is at the path, with what others have put there.
    """
    # SQLite asks for all its readers' bytes then. This kind of lock keeps out even its own process, and goes
    # with the descriptor, which SQLite closes.
    asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
    for fd in _descriptors(opened.database):
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, asked)


def _size(identity: Identity | None) -> int:
    return max((os.fstat(fd).st_size for fd in _descriptors(identity)), default=0)


def _descriptors(identity: Identity | None) -> list[int]:
    """Those by which this process has a file open, though it may have no name any more."""
    found: list[int] = []
    try:
        names = os.listdir("/proc/self/fd")
    except FileNotFoundError:  # no /proc
        return found
    for fd in map(int, names):
        with suppress(OSError):
            if identity_of(os.fstat(fd)) == identity:
                found.append(fd)
    return found
