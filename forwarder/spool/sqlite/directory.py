"""The queue's directory, and which files are in it now."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from forwarder.errors import ConfigError
from forwarder.spool.sqlite.lock import LOCK, open_shared

DATABASE = "data.db"
LOG, INDEX = DATABASE + "-wal", DATABASE + "-shm"
DIRECTORY_MODE = 0o2770


# Device and inode.
Identity = tuple[int, int]


class Files(NamedTuple):
    """Which files a database consists of; None: it is not there.

    While a connection to the database is open, all three stay the same, unless somebody deletes or replaces
    one; what is written then goes into files that nobody else will open.
    """

    database: Identity | None
    log: Identity | None
    log_index: Identity | None

    @classmethod
    def at(cls, path: str) -> Files:
        """Those in the directory *path* now."""
        found: list[Identity | None] = []
        for name in (DATABASE, LOG, INDEX):
            try:
                seen = os.stat(_file(path, name))
            except FileNotFoundError:
                found.append(None)
            else:
                found.append((seen.st_dev, seen.st_ino))
        return cls(*found)

    def has_database_at(self, path: str) -> bool:
        """Whether the database is the one in the directory *path* now."""
        return Files.at(path).database == self.database


def size_of(path: str, name: str) -> int:
    """The size of a file in the directory in bytes; 0 if it is not there."""
    try:
        return os.stat(_file(path, name)).st_size
    except FileNotFoundError:
        return 0


def refuse_links(file: str) -> None:
    """Make sure that *file* is a file and no link, through which another would be written.

    Raises:
        ConfigError: it is something else.
        OSError: it can't be looked at.
    """
    if not stat.S_ISREG(os.lstat(file).st_mode):
        raise ConfigError(
            f"{file} is no regular file: a link, or a pipe",
            "Nothing was changed; use a directory of the queue's own, or move it away",
        )


def make_directory(path: str) -> None:
    """Make the queue's directory for a group of producers, if it is not there; durable on return.

    Raises:
        OSError: why it can't be made.
    """
    if os.path.isdir(path):
        return
    target = os.path.abspath(path)
    parent = os.path.dirname(target)
    os.makedirs(parent, exist_ok=True)
    try:
        _make_open_directory(target, parent)
    except OSError as error:
        if not os.path.isdir(path):
            error.filename, error.filename2 = target, None  # and not the name it was made under
            raise
    sync_directory(parent)


def _make_open_directory(target: str, parent: str) -> None:
    # Under another name until it is open to the group: who is killed in between must not leave it closed.
    made = tempfile.mkdtemp(prefix=f".{os.path.basename(target)}.", dir=parent)
    lock = os.path.join(made, LOCK)
    try:
        open_to_group(made)
        # Not empty, or another that is made at the same time could be renamed into its place.
        os.close(open_shared(lock))
        os.rename(made, target)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(lock)
        os.rmdir(made)
        raise


def open_to_group(directory: str) -> None:
    """Let the group of producers use a directory that this process has just made."""
    # Where files have no mode of their own, as on vfat, the mount's counts for all of them.
    with suppress(PermissionError):
        os.chmod(directory, DIRECTORY_MODE)


def sync_way(path: str) -> None:
    """Put the names on the way to the directory *path* on disk, whoever made it."""
    here = os.path.abspath(path)
    while here != (parent := os.path.dirname(here)):
        with suppress(PermissionError):
            sync_directory(parent)
        here = parent


def sync_directory(path: str) -> None:
    """Put the names in a directory on disk, as a file's own sync does not."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def identity_of(found: os.stat_result) -> Identity:
    """Which file it is."""
    return found.st_dev, found.st_ino


# Each put asks for five of them: to join the names takes as long as to look at the files.
@lru_cache(maxsize=64)
def _file(path: str, name: str) -> str:
    return os.path.join(path, name)
