"""Databases that are damaged, or whose files were deleted or replaced while they are open.

A damaged one is set aside, so that the queue can continue with a fresh one. It moves, with its log, into its
own directory in the queue's: ``damaged-DATE``, and once salvaged ``salvaged-DATE``. The files first get new
names, and then lose the old ones. A crash in between leaves both, but never a log without its database, which
SQLite would delete.

Deleting ``data.db-wal`` or ``-shm`` looks harmless but is not: programs that have them open continue with
files that have no name, which later programs do not see. What only those files hold is lost, and reported.
SQLite's log and its index are described in sqlite.org/walformat.html.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import struct
import time

from forwarder.errors import StorageError
from forwarder.spool.sqlite import tables
from forwarder.spool.sqlite.directory import (
    DATABASE,
    DIRECTORY_MODE,
    INDEX,
    LOG,
    Files,
    Identity,
    identity_of,
    open_to_group,
    size_of,
    sync_directory,
)
from forwarder.spool.sqlite.lock import FLOCK

DAMAGED, SALVAGED = "damaged-", "salvaged-"
_PARTS = (DATABASE, LOG, INDEX)
_LOG_SUFFIX = LOG.removeprefix(DATABASE)
# The errors of link(2) if a file can't have two names: on vfat and some network file systems.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# The bytes of a database that SQLite's readers lock.
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510
_PIECE_BYTES = 1 << 20


def set_aside(path: str) -> str:
    """Set aside the database in the queue's directory *path*. The caller holds the lock.

    Returns:
        the database's new place.

    Raises:
        StorageError: the file system has no hard links.
        OSError: it can't be moved.
    """
    _drop_begun(path)
    target = new_directory(path)
    try:
        for part in _PARTS:
            with contextlib.suppress(FileNotFoundError):
                os.link(os.path.join(path, part), os.path.join(target, part), follow_symlinks=False)
    except BaseException as error:
        _remove(target)  # the files still have their old names
        if isinstance(error, OSError) and error.errno in _NO_LINKS:
            raise StorageError(
                f"the damaged database in {path} can't be set aside without hard links: {error.strerror}",
                "Put the queue on a local file system with hard links",
            ) from error
        raise
    sync_directory(target)
    sync_directory(path)
    for part in _PARTS:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(path, part))
    sync_directory(path)
    return os.path.join(target, DATABASE)


def _drop_begun(path: str) -> None:
    """Undo a move that was killed before the first old name was gone, or its events would come back twice."""
    for file in damaged(path):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samefile(file, os.path.join(path, DATABASE)):
                _remove(os.path.dirname(file))  # only second names of files that are still in use


def _remove(directory: str) -> None:
    for name in os.listdir(directory):
        os.unlink(os.path.join(directory, name))
    os.rmdir(directory)


def set_log_aside(path: str) -> None:
    """Set aside a log in *path* that has no database. The caller holds the lock.

    SQLite would delete it, and the events that are only in it.
    """
    if size_of(path, LOG):
        set_aside(path)
    # A program that still has the old files open would use this index for the next log.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(path, INDEX))


def damaged(path: str) -> list[str]:
    """The databases set aside in the queue's directory *path* and not yet salvaged, oldest first."""
    try:
        names = sorted(name for name in os.listdir(path) if name.startswith(DAMAGED))
    except OSError:
        return []
    files = [os.path.join(path, name, DATABASE) for name in names]
    # A kill during the move may leave an empty directory; of a deleted database there is only the log.
    return [file for file in files if os.path.exists(file) or os.path.exists(file + _LOG_SUFFIX)]


def salvaged_name(file: str) -> str:
    """The name that a set-aside database gets once it is salvaged; any other file keeps its name."""
    directory, name = os.path.split(os.path.realpath(file))
    parent, place = os.path.split(directory)
    if place.startswith(DAMAGED):
        place = SALVAGED + place.removeprefix(DAMAGED)
    return os.path.join(parent, place, name)


def mark_salvaged(file: str) -> None:
    """Mark a set-aside database as salvaged; any other file gets no mark."""
    before, after = (os.path.dirname(name) for name in (os.path.realpath(file), salvaged_name(file)))
    if before != after:
        with contextlib.suppress(FileNotFoundError):  # another salvage has also finished
            os.rename(before, after)
        sync_directory(os.path.dirname(after))


def has_been_set_aside(path: str, database: Identity | None) -> bool:
    """Whether that database is among those set aside in the queue's directory *path*."""
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(path) if name.startswith((DAMAGED, SALVAGED))]
        return any(Files.at(os.path.join(path, name)).database == database for name in names)
    return False


def new_directory(path: str) -> str:
    """A new directory for a database that is set aside in *path*, named after the time."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for number in range(1, 1000):
        target = os.path.join(path, f"{DAMAGED}{stamp}" + (f"-{number}" if number > 1 else ""))
        if os.path.lexists(os.path.dirname(salvaged_name(os.path.join(target, DATABASE)))):
            continue  # the clock went back, and its name for when it is salvaged exists already
        with contextlib.suppress(FileExistsError):
            os.mkdir(target, DIRECTORY_MODE)
            open_to_group(target)
            return target
    raise FileExistsError(f"{path} has a thousand damaged databases of this second")


def let_go(connection: sqlite3.Connection, path: str, opened: Files) -> str:
    """Close *connection*, because its files are no longer those in the directory *path*.

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
            # There is no new log yet: what is only in the old one can still go into the database.
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # A program that opens a log that is still there reads all of it.
        held = "what was accepted last" if now.log != opened.log and _size_of_open(opened.log) else ""
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
    """Read the database in *path* and its log to the end, as plain files.

    Raises:
        OSError: the disk can't read them now; that says nothing about their content.
    """
    opened = Files.at(path)
    for name, identity in ((DATABASE, opened.database), (LOG, opened.log)):
        # Closing a file that SQLite has open in this process would drop its locks.
        there = [fd for fd in _descriptors(identity) if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH]
        with contextlib.suppress(FileNotFoundError):
            # Don't wait for a pipe, which a person may have put there.
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
    """What a database contains, in words; "": nothing."""
    try:
        found = {
            each: connection.execute(
                f"SELECT (SELECT count(*) FROM {each.queue}), (SELECT count(*) FROM {each.dead_letters})"
            ).fetchone()
            for each in tables.each()
        }
    except sqlite3.Error:
        return "an unknown number of events"
    return ", ".join(
        f"{waiting:,} {each.kind.noun} and {dead:,} dead letters"
        for each, (waiting, dead) in found.items()
        if waiting or dead
    )


def _leave_log_alone(opened: Files) -> None:
    """Keep the last connection of this process to the database from touching the log when it is closed.

    With an outdated index SQLite would write old pages into the database, and then delete the log at the
    path, with what others have written there.
    """
    # SQLite then locks all its readers' bytes. This kind of lock keeps out even its own process, and ends
    # with the descriptor, which SQLite closes.
    asked = struct.pack(FLOCK, fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
    for fd in _descriptors(opened.database):
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, asked)


def _size_of_open(identity: Identity | None) -> int:
    return max((os.fstat(fd).st_size for fd in _descriptors(identity)), default=0)


def _descriptors(identity: Identity | None) -> list[int]:
    """The descriptors by which this process has a file open, even if that has no name any more."""
    found: list[int] = []
    try:
        names = os.listdir("/proc/self/fd")
    except FileNotFoundError:  # no /proc
        return found
    for fd in map(int, names):
        with contextlib.suppress(OSError):
            if identity_of(os.fstat(fd)) == identity:
                found.append(fd)
    return found
