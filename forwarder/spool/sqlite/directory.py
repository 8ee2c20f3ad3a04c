"""The queue's directory, and the files that are in it now."""

from __future__ import annotations

import os
import stat
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
    """The files of a database; None: the file does not exist.

    While a connection to the database is open, all three stay the same, unless a person deletes or replaces
    one. After that, writes go into files that no one else will open.
    """

    database: Identity | None
    log: Identity | None
    log_index: Identity | None

    @classmethod
    def at(cls, path: str) -> Files:
        """The files in the directory *path* now."""
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
    """The size of a file in the directory in bytes; 0 if it does not exist."""
    try:
        return os.stat(_file(path, name)).st_size
    except FileNotFoundError:
        return 0


def refuse_links(file: str) -> None:
    """Make sure that *file* is a regular file, not a link through which another one would be written.

    Raises:
        ConfigError: it is something else.
        OSError: its type can't be read.
    """
    if not stat.S_ISREG(os.lstat(file).st_mode):
        raise ConfigError(
            f"{file} is not a regular file but a link or a pipe",
            "Nothing was changed; use a directory only for the queue, or move it away",
        )


def make_directory(path: str) -> None:
    """Create the queue's directory for a group of producers, if missing; durable on return.

    Raises:
        OSError: it can't be created.
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
            error.filename, error.filename2 = target, None  # not its temporary name
            raise
    sync_directory(parent)


def _make_open_directory(target: str, parent: str) -> None:
    # Under a temporary name until the group can use it: a kill in between must not leave it closed.
    made = os.path.join(parent, f".{os.path.basename(target)}.{os.urandom(4).hex()}")
    os.mkdir(made, 0o700)
    lock = os.path.join(made, LOCK)
    try:
        open_to_group(made)
        # Not empty, or another one that is made at the same time could replace it.
        os.close(open_shared(lock))
        os.rename(made, target)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(lock)
        os.rmdir(made)
        raise


def open_to_group(directory: str) -> None:
    """Let the group of producers use a directory that this process has just created."""
    # On file systems without modes, such as vfat, the mount's mode applies to all files.
    with suppress(PermissionError):
        os.chmod(directory, DIRECTORY_MODE)


def sync_way(path: str) -> None:
    """Sync the names of the directory *path* and its parents, whoever created them."""
    here = os.path.abspath(path)
    while here != (parent := os.path.dirname(here)):
        with suppress(PermissionError):
            sync_directory(parent)
        here = parent


def sync_directory(path: str) -> None:
    """Sync the names in a directory; a file's own sync does not do that."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def identity_of(found: os.stat_result) -> Identity:
    """Which file it is."""
    return found.st_dev, found.st_ino


# Each put needs five of them, and joining the names takes as long as reading the files' status.
@lru_cache(maxsize=64)
def _file(path: str, name: str) -> str:
    return os.path.join(path, name)
