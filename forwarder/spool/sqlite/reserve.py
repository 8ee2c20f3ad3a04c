"""Disk space put by for settling, which frees space but needs a little first."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from forwarder.spool.sqlite.lock import open_shared

RESERVE = "reserve"
RESERVE_BYTES = 4 * 1024 * 1024


class Reserve:
    """A file of `RESERVE_BYTES` in the queue's directory that is given up when the disk is full."""

    def __init__(self, path: str) -> None:
        self._file = os.path.join(path, RESERVE)

    def fill(self) -> bool:
        """Put the space by, unless the disk is too full for it; True if it is there."""
        try:
            fd = _opened(open_shared(self._file))
        except OSError:
            return False
        try:
            if os.fstat(fd).st_size != RESERVE_BYTES:
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
        except OSError:
            with suppress(OSError):
                os.ftruncate(fd, 0)
            return False
        finally:
            os.close(fd)
        return True

    def release(self) -> bool:
        """Give the space up; False: there was none."""
        try:
            # By its descriptor: what has taken the file's place meanwhile must not be emptied.
            fd = _opened(os.open(self._file, os.O_RDWR | os.O_NOFOLLOW))
        except OSError:
            return False
        try:
            had = os.fstat(fd).st_size > 0
            os.ftruncate(fd, 0)
        except OSError:
            return False
        finally:
            os.close(fd)
        return had


def _opened(fd: int) -> int:
    """The same descriptor, if a file is behind it that is nothing else, under another name."""
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "not a reserve")
