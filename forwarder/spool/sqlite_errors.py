"""What SQLite and the disk answer, told to a person."""

from __future__ import annotations

import errno
import os
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


class SpoolFullError(TryAgainError):
    """There is no room: on the disk, or under ``queue.max_bytes``."""


class QueueReplacedError(TryAgainError):
    """The database at the path is another than the one that was read from."""


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn errors of SQLite and the system into those of :mod:`forwarder.errors`.

    Args:
        path: The queue's directory, for the message.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _explain_sqlite(error, path) from error
    except OSError as error:
        raise _explain_system(error, path) from error


def _explain_sqlite(error: sqlite3.Error, path: str) -> Exception:
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return TryAgainError(
            f"the queue in {path} is locked by another process", "Nothing was stored; try again"
        )
    if code == "SQLITE_FULL" or (code.startswith("SQLITE_IOERR") and _has_no_space(path)):
        return full(path)
    if code == "SQLITE_NOTADB":
        return ConfigError(
            f"the database in {path} is not a SQLite file",
            "Nothing was changed; set queue.path to another directory, or move the file away",
        )
    if code.startswith("SQLITE_CORRUPT"):
        return StorageError(f"the database in {path} is damaged ({error})", "Run `forwarder check`")
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return not_permitted(path)
    if code.startswith("SQLITE_IOERR"):
        return StorageError(f"the disk under {path} answers with an error ({error}, {code})")
    return error


def _explain_system(error: OSError, path: str) -> ForwarderError:
    where = error.filename or path
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return not_permitted(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return full(path)
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ELOOP):
        return ConfigError(f"{where} is in the way: {error.strerror}", "Set queue.path to a directory")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return TryAgainError(
            f"no file can be opened in {path}: {error.strerror}", "Raise the limit of open files"
        )
    if error.errno == errno.ENOENT:
        return CannotCreateError(f"{where} can't be created: {error.strerror}")
    return StorageError(f"{where}: {error.strerror}")


def full(path: str) -> SpoolFullError:
    """The disk is full."""
    return SpoolFullError(
        f"the disk under {path} is full", "Nothing was stored; what was accepted before is safe. Make room"
    )


def not_permitted(path: str) -> NotPermittedError:
    """This user may not use the queue."""
    return NotPermittedError(
        f"no permission to write in {path}, which reading the queue needs too",
        "Run as a member of the group that owns it (usually `forwarder`)",
    )


def _has_no_space(path: str) -> bool:
    try:
        disk = os.statvfs(path)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < 64 * 1024
