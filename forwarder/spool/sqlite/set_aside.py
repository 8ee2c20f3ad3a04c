"""Databases that are damaged, and those whose files were deleted or replaced while they are open.

A damaged one is put out of the way, so that the queue can go on with a fresh one. It goes, with its log, into
a directory of its own beside the queue: ``damaged-DATE``, and once salvaged ``salvaged-DATE``. First by
further names for the files and only then out of the old place: a crash in between leaves both, and never a
log without its database, which SQLite would delete.

Deleting ``data.db-wal`` or ``-shm`` looks harmless and is not: whoever has them open goes on with files that
have no name, and whoever comes later does not see them. What is only in those is lost, and said. How SQLite
goes about its log and the log's index: sqlite.org/walformat.html.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import sqlite3
import struct
import time

from forwarder.errors import StorageError
from forwarder.spool.sqlite import schema
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
# What link(2) says where a file can't have two names: on vfat, and on some file systems over a network.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# The bytes of a database that SQLite's readers lock.
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510
_PIECE_BYTES = 1 << 20


def set_aside(path: str) -> str:
    """Set the database in the queue's directory *path* aside. The caller holds the lock.

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
        shutil.rmtree(target)  # the files still have their names in the old place
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
    """Take back what was killed before the first file had gone, or its events would come back twice."""
    for file in damaged(path):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samefile(file, os.path.join(path, DATABASE)):
                shutil.rmtree(os.path.dirname(file))  # only further names, of files that are still in use


def set_log_aside(path: str) -> None:
    """Set the log aside that is in *path* without its database. The caller holds the lock.

    SQLite would delete it, and with it the events that are only there.
    """
    if size_of(path, LOG):
        set_aside(path)
    # Who still has it open, with what has been set aside, would let it speak of the next log.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(path, INDEX))


def damaged(path: str) -> list[str]:
    """The databases set aside in the queue's directory *path* and not salvaged yet, oldest first."""
    try:
        names = sorted(name for name in os.listdir(path) if name.startswith(DAMAGED))
    except OSError:
        return []
    files = [os.path.join(path, name, DATABASE) for name in names]
    # Killed as it was set aside, an empty directory may be left; of a deleted database, the log alone.
    return [file for file in files if os.path.exists(file) or os.path.exists(file + _LOG_SUFFIX)]


def salvaged_name(file: str) -> str:
    """The name of a database that was set aside once it has been salvaged; any other file keeps its own."""
    directory, name = os.path.split(os.path.realpath(file))
    parent, place = os.path.split(directory)
    if place.startswith(DAMAGED):
        place = SALVAGED + place.removeprefix(DAMAGED)
    return os.path.join(parent, place, name)


def mark_salvaged(file: str) -> None:
    """Note that a database that was set aside has been salvaged; of any other file nothing is noted."""
    before, after = (os.path.dirname(name) for name in (os.path.realpath(file), salvaged_name(file)))
    if before != after:
        with contextlib.suppress(FileNotFoundError):  # another salvage has come to its end, too
            os.rename(before, after)
        sync_directory(os.path.dirname(after))


def has_been_set_aside(path: str, database: Identity | None) -> bool:
    """Whether that database stands in the queue's directory *path*, set aside."""
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(path) if name.startswith((DAMAGED, SALVAGED))]
        return any(Files.at(os.path.join(path, name)).database == database for name in names)
    return False


def new_directory(path: str) -> str:
    """A place for a database that is set aside in the queue's directory *path*; named for the time."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for number in range(1, 1000):
        target = os.path.join(path, f"{DAMAGED}{stamp}" + (f"-{number}" if number > 1 else ""))
        if os.path.lexists(os.path.dirname(salvaged_name(os.path.join(target, DATABASE)))):
            continue  # the clock went back: it could not be given that name once it has been salvaged, too
        with contextlib.suppress(FileExistsError):
            os.mkdir(target, DIRECTORY_MODE)
            open_to_group(target)
            return target
    raise FileExistsError(f"{path} holds a thousand damaged databases of this second")


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
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # Who opens a log that is still there reads all of it.
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
    """Read the database in *path* and its log to their ends, as any file.

    Raises:
        OSError: the disk can't read them now, which says nothing about their content.
    """
    opened = Files.at(path)
    for name, identity in ((DATABASE, opened.database), (LOG, opened.log)):
        # To close a file that SQLite has open in this process would drop its locks.
        there = [fd for fd in _descriptors(identity) if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH]
        with contextlib.suppress(FileNotFoundError):
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
    asked = struct.pack(FLOCK, fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
    for fd in _descriptors(opened.database):
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, asked)


def _size_of_open(identity: Identity | None) -> int:
    return max((os.fstat(fd).st_size for fd in _descriptors(identity)), default=0)


def _descriptors(identity: Identity | None) -> list[int]:
    """Those by which this process has a file open, though it may have no name any more."""
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
