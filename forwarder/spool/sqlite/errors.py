"""Errors of SQLite and the disk, explained to a person."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from forwarder.errors import (
    CannotCreateError,
    ConfigError,
    ForwarderError,
    NotPermittedError,
    StorageError,
    TryAgainError,
)
from forwarder.spool.errors import DamagedError, SpoolFullError
from forwarder.spool.sqlite.lock import LOCK

_SOME_BYTES = 64 * 1024
_FILES_TO_OPEN = 6  # database, log, index, lock file, a directory to sync; and the list of open files


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn errors of SQLite and the system into those of :mod:`forwarder.errors`.

    Args:
        path: The queue's directory, for the message.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise explained(error, path) from error


def explained(error: sqlite3.Error | OSError, path: str) -> ForwarderError:
    """What `translated` raises."""
    if isinstance(error, sqlite3.Error):
        return _explain_sqlite(error, path)
    return _explain_system(error, path)


def _explain_sqlite(error: sqlite3.Error, path: str) -> ForwarderError:
    code = getattr(error, "sqlite_errorname", "")
    # The last one: too many programs opened and closed it at once.
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
        return TryAgainError(
            f"the queue in {path} is locked by another process", "Nothing was stored; try again"
        )
    if isinstance(error, sqlite3.ProgrammingError) and "closed database" in str(error):
        return TryAgainError(
            f"the queue in {path} was closed by another thread or a fork during this call",
            "Nothing was stored; try again",
        )
    if code == "SQLITE_FULL" or (code.startswith("SQLITE_IOERR") and has_no_space(path)):
        return full(path)
    if code == "SQLITE_NOTADB" and not os.path.exists(os.path.join(path, LOCK)):
        return ConfigError(
            f"the database in {path} is not a SQLite file",
            "Nothing was changed; use another directory for the queue, or move the file away",
        )
    # In a prepared database, a table or column that is missing or should not exist means damage.
    signs = ("no such", "has no column", "already exists")
    is_gone = code == "SQLITE_ERROR" and any(sign in str(error) for sign in signs)
    # The last one: a file is shorter than the log's index says.
    if is_gone or code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ")):
        return damaged(path, str(error))
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return _why_not(path)
    if code.startswith("SQLITE_IOERR"):
        return StorageError(f"the disk under {path} reports an error ({error}, {code})")
    return StorageError(f"the queue in {path} can't be used: {error} ({code or type(error).__name__})")


def _explain_system(error: OSError, path: str) -> ForwarderError:
    where = error.filename or path
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return _why_not(path) if os.path.lexists(path) else _not_makeable(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return full(path)
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ELOOP):
        return ConfigError(f"{where} is in the way: {error.strerror}", "Use another directory for the queue")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _too_many_files(path)
    if error.errno == errno.ENOENT:
        return CannotCreateError(f"{where} can't be created: {error.strerror}")
    return StorageError(f"{where}: {error.strerror}")


def damaged(path: str, fault: str) -> DamagedError:
    """The queue's database is damaged."""
    return DamagedError(
        f"the database in {path} is damaged ({fault})",
        f"`forwarder salvage {path}/data.db --apply` sets it aside and recovers what can be read",
    )


def full(path: str) -> SpoolFullError:
    """The disk is full."""
    return SpoolFullError(
        f"the disk under {path} is full", "Nothing was stored; accepted events are safe. Make room"
    )


def used_up(path: str) -> DamagedError:
    """An external producer has added a row with so large an id that none is left for the next row."""
    return damaged(path, "a row id is too large (above 2^53); no further ids are available")


def _why_not(path: str) -> ForwarderError:
    """Why no file can be written in a directory that is there; SQLite does not say."""
    try:
        disk = os.statvfs(path)
        open_files = len(os.listdir("/proc/self/fd"))
    except OSError as error:
        return _too_many_files(path) if error.errno in (errno.EMFILE, errno.ENFILE) else _not_permitted(path)
    if open_files + _FILES_TO_OPEN > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
        return _too_many_files(path)
    if disk.f_flag & os.ST_RDONLY:
        return StorageError(
            f"the file system under {path} is mounted read-only",
            "Remount it writable; a systemd unit needs ReadWritePaths= for a place of its own",
        )
    if has_no_space(path):
        return full(path)
    if disk.f_files and not disk.f_favail:
        return SpoolFullError(
            f"the disk under {path} is full: it has no inode for another file",
            "Nothing was stored; accepted events are safe. Delete some files there",
        )
    return _not_permitted(path)


def _too_many_files(path: str) -> TryAgainError:
    return TryAgainError(f"can't open a file in {path}: too many open files", "Raise the limit on open files")


def _not_permitted(path: str) -> NotPermittedError:
    return NotPermittedError(
        f"no permission to write in {path}; reading the queue needs it too",
        f"Run as a member of the group that owns it{_group_of(path)}",
    )


def _group_of(path: str) -> str:
    try:
        import grp

        return f", {grp.getgrgid(os.stat(path).st_gid).gr_name}"
    except (OSError, KeyError, ImportError):  # of a program that gave up its rights, or its root
        return ""


def _not_makeable(path: str) -> NotPermittedError:
    parent = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(parent) and parent != os.path.dirname(parent):
        parent = os.path.dirname(parent)
    return NotPermittedError(
        f"{path} does not exist, and this user can't create it in {parent}",
        "Use a directory of this user for the queue, or create it as root",
    )


def has_no_space(path: str) -> bool:
    """Whether the disk or this user's quota is full. It tries to allocate, because no figure shows a quota.

    For both SQLite reports an I/O error, and on xfs that it can't open its index.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_TMPFILE, 0o600)
        try:
            os.posix_fallocate(fd, 0, _SOME_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return False
